//! Entry point of `api-exposure-monitor`.

fn main() -> std::process::ExitCode {
    monitor::commands::main()
}

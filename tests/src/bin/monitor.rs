//! `api-exposure-monitor` itself, so that tests which start it start what was built with them.

fn main() -> std::process::ExitCode {
    monitor::commands::main()
}

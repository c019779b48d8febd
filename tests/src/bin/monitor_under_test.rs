//! The monitor's binary, where the tests of this package find it.

fn main() -> std::process::ExitCode {
    monitor::commands::main()
}

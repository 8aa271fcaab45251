//! `tributary-certs`: makes an authority, issues, rotates and revokes certificates, shows their state.

mod command;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{CommandFactory, Parser};

use command::args::{Action, Command, Format};
use command::{change, fault, rotate, show};

fn main() -> ExitCode {
    let command = Command::parse();
    let mut out = io::stdout().lock();
    match run(command.action, &mut out, SystemTime::now()) {
        Ok(code) => code,
        Err(error) if fault::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write!(io::stderr().lock(), "{}", fault::report(&error));
            ExitCode::from(fault::exit_code(&error))
        }
    }
}

fn run(action: Action, out: &mut dyn Write, now: SystemTime) -> anyhow::Result<ExitCode> {
    match action {
        Action::Init(args) => change::init(out, &args, now)?,
        Action::Issue(args) => change::issue(out, &args, now)?,
        Action::Status { folder, output } => return show::status(out, &folder, output, now),
        Action::Inspect { file, output } => show::inspect(out, &file, output)?,
        Action::Verify { files, folder, ca } => {
            return show::verify(out, &files, (&folder, ca.as_deref()), now);
        }
        Action::Bundle { folder, output } => show::bundle(out, &folder, output)?,
        Action::Revoke(args) => change::revoke(out, &args, now)?,
        Action::Rotate(args) => return rotate::run(out, &args),
        Action::Export { name, folder, format: Format::K8sSecret, namespace, secret_name } => {
            let place = (secret_name.as_deref(), namespace.as_deref());
            change::export(out, (&name, &folder), place)?;
        }
        Action::Completions { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "tributary-certs", out);
        }
    }
    Ok(ExitCode::SUCCESS)
}

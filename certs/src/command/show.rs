//! `status`, `inspect`, `verify` and `bundle`: what there is, and whether it is good.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;
use tributary_certs::bundle::{self, Folder};
use tributary_certs::certificate::{Certificate, hex, rfc3339, utc};
use tributary_certs::check::{self, Good};
use tributary_certs::state::State;
use tributary_certs::status;
use tributary_certs::trust::Bundle;

use super::args::{BundleOutput, FolderArg, Output};
use super::fault::CHECK_FAILED;

/// `tributary-certs status`
pub fn status(
    out: &mut dyn Write,
    folder: &FolderArg,
    output: Output,
    now: SystemTime,
) -> anyhow::Result<ExitCode> {
    let rows = status::read(&folder.dir, now)?;
    match output {
        Output::Table => write!(out, "{}", status::table(&rows))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
    }
    if let Some(rotation) = State::read(&folder.dir)?.rotation
        && output == Output::Table
    {
        let step = rotation.step.as_str();
        writeln!(out, "a rotation is going on, in step {step}: tributary-certs rotate --status")?;
    }
    let failed = rows.iter().any(|row| row.status.is_failure());
    Ok(if failed { ExitCode::from(CHECK_FAILED) } else { ExitCode::SUCCESS })
}

/// `tributary-certs inspect`
pub fn inspect(out: &mut dyn Write, file: &Path, output: Output) -> anyhow::Result<()> {
    let certificate = bundle::leaf(file)?;
    let facts = facts(&certificate);
    match output {
        Output::Table => {
            for (key, value) in &facts {
                writeln!(out, "{key:<14}{value}")?;
            }
        }
        Output::Json => {
            let object: serde_json::Map<String, serde_json::Value> = facts
                .into_iter()
                .map(|(key, value)| (key.replace(' ', "_"), value.into()))
                .collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        }
    }
    Ok(())
}

/// `tributary-certs verify`
pub fn verify(
    out: &mut dyn Write,
    files: &[impl AsRef<Path>],
    (folder, ca): (&FolderArg, Option<&Path>),
    now: SystemTime,
) -> anyhow::Result<ExitCode> {
    let (bundle, state) = match ca {
        Some(ca) => (Bundle::read(ca)?, State::default()),
        None => (Folder::trusted(&folder.dir)?, State::read(&folder.dir)?),
    };
    let mut code = ExitCode::SUCCESS;
    for file in files.iter().map(AsRef::as_ref) {
        match check::file(file, &bundle, &state, now) {
            Ok(good) => writeln!(out, "{}: ok: {}", file.display(), describe(&good))?,
            Err(why) => {
                writeln!(out, "{why}")?;
                code = ExitCode::from(CHECK_FAILED);
            }
        }
    }
    Ok(code)
}

/// `tributary-certs bundle`
pub fn bundle(out: &mut dyn Write, folder: &FolderArg, output: BundleOutput) -> anyhow::Result<()> {
    let bundle = Folder::trusted(&folder.dir)?;
    match output {
        BundleOutput::Pem => write!(out, "{}", bundle.pem())?,
        BundleOutput::Table => {
            for authority in bundle.authorities() {
                let hash = hex(&authority.spki_sha256);
                let ends = utc(authority.not_after);
                writeln!(out, "{}  until {ends}  sha256:{hash}", authority.subject)?;
            }
        }
        BundleOutput::Json => {
            let list: Vec<_> = bundle
                .authorities()
                .map(|authority| {
                    json!({
                        "subject": authority.subject,
                        "serial": authority.serial,
                        "not_after": rfc3339(authority.not_after),
                        "spki_sha256": hex(&authority.spki_sha256),
                    })
                })
                .collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
    }
    Ok(())
}

fn describe(good: &Good) -> String {
    match good {
        Good::Authority { certificate } => {
            format!("authority \"{}\", until {}", certificate.subject, utc(certificate.not_after))
        }
        Good::Leaf { identity, certificate, key } => format!(
            "{}, until {}{}",
            identity.describe(),
            utc(certificate.not_after),
            if *key { ", with its key" } else { "" }
        ),
    }
}

fn facts(certificate: &Certificate) -> Vec<(&'static str, String)> {
    let usages = [
        (certificate.is_ca, "authority"),
        (certificate.client_auth, "client"),
        (certificate.server_auth, "server"),
    ];
    let usages: Vec<&str> =
        usages.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    vec![
        ("subject", certificate.subject.clone()),
        ("identity", certificate.uris.join(", ")),
        ("hosts", certificate.hosts.join(", ")),
        ("usage", usages.join(", ")),
        ("serial", certificate.serial.clone()),
        ("issuer", certificate.issuer.clone()),
        ("not before", rfc3339(certificate.not_before)),
        ("not after", rfc3339(certificate.not_after)),
        ("key sha256", hex(&certificate.spki_sha256)),
    ]
}

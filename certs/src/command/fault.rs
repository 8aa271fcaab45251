//! How a failure is told: what, why, and the next step; and its exit code.

use std::io;

use tributary_certs::authority::AuthorityError;
use tributary_certs::bundle::BundleError;
use tributary_certs::export::ExportError;
use tributary_certs::revoke::RevokeError;
use tributary_certs::rotate::RotateError;
use tributary_certs::state::StateError;
use tributary_certs::tls::TlsError;

/// A check failed, or a rotation stands still.
pub const CHECK_FAILED: u8 = 1;
/// A wrong command line, or a folder that it does not fit.
pub const USAGE: u8 = 2;

/// The error, its causes where it does not tell them itself, and the next step where there is one.
pub fn report(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {error}")];
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !lines.iter().any(|line| line.contains(&cause)) {
            lines.push(format!("  because: {cause}"));
        }
    }
    if let Some(help) = help(error) {
        lines.push(format!("   = help: {help}"));
    }
    lines.join("\n") + "\n"
}

/// The exit code that belongs to it.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<StateError>() || error.is::<TlsError>() || error.is::<ExportError>() {
        return CHECK_FAILED;
    }
    match of_folder(error) {
        Some(
            BundleError::Malformed { .. }
            | BundleError::Disk { .. }
            | BundleError::Load { .. }
            | BundleError::State(_)
            | BundleError::Trust { .. }
            | BundleError::Tls(_),
        ) => CHECK_FAILED,
        _ => USAGE,
    }
}

/// Whether whoever read our output has gone away: nobody to report to.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn help(error: &anyhow::Error) -> Option<String> {
    if let Some(error) = of_folder(error) {
        return of_bundle(error);
    }
    if let Some(error) = error.downcast_ref::<RotateError>() {
        return of_rotation(error);
    }
    match error.downcast_ref::<RevokeError>()? {
        RevokeError::UnknownName { .. } | RevokeError::UnknownSerial { .. } => {
            Some("tributary-certs status shows what was issued; --spki takes any key".to_owned())
        }
        RevokeError::Collector => Some(
            "a new key for it: tributary-certs rotate --leaf collector; if a thief has the old one: rotate --emergency"
                .to_owned(),
        ),
        _ => None,
    }
}

fn of_rotation(error: &RotateError) -> Option<String> {
    Some(match error {
        RotateError::Busy { .. } => {
            "see it with rotate --status, go on with it by rotate, or take it back with rotate --withdraw".to_owned()
        }
        RotateError::TooLate { .. } => {
            "certificates of the next authority are out: let it go on (tributary-certs rotate)".to_owned()
        }
        _ => return None,
    })
}

fn of_bundle(error: &BundleError) -> Option<String> {
    Some(match error {
        BundleError::Exists { path } => format!(
            "use another --dir, or --force to replace it; every certificate that {} issued then stops working",
            path.display()
        ),
        BundleError::NoAuthority { dir } => {
            format!("make one: tributary-certs init --dir {} --host HOST", dir.display())
        }
        BundleError::OtherIdentity { .. } => {
            "write the new one elsewhere with --out DIR, or move the present one away".to_owned()
        }
        BundleError::Reserved { .. } => "give the cluster another name".to_owned(),
        BundleError::Authority(AuthorityError::Lifetime { .. }) => {
            "ask for fewer --days".to_owned()
        }
        _ => return None,
    })
}

fn of_folder(error: &anyhow::Error) -> Option<&BundleError> {
    let direct = error.downcast_ref::<BundleError>();
    direct
        .or_else(|| match error.downcast_ref::<RotateError>() {
            Some(RotateError::Folder(inner)) => Some(inner),
            _ => None,
        })
        .or_else(|| match error.downcast_ref::<RevokeError>() {
            Some(RevokeError::Folder(inner)) => Some(inner),
            _ => None,
        })
}

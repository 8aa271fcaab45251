//! `init`, `issue`, `revoke` and `export`: one change each, told in a few lines.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use tributary_certs::bundle::{self, COLLECTOR, Folder, Init, Written};
use tributary_certs::certificate::{hex, utc};
use tributary_certs::export::{self, Place};
use tributary_certs::revoke::{self, Whose};

use super::args::{FolderArg, InitArgs, IssueArgs, RevokeArgs};

const DAY: Duration = Duration::from_secs(86_400);

/// `tributary-certs init`
pub fn init(out: &mut dyn Write, args: &InitArgs, now: SystemTime) -> anyhow::Result<()> {
    let init = Init {
        trust_domain: &args.trust_domain,
        collector: &args.collector,
        hosts: &args.hosts,
        lifetime: DAY * args.days,
        force: args.force,
    };
    let folder = match &args.from_ca {
        None => Folder::init(&args.dir, &init, now)?,
        Some((cert, key)) => Folder::adopt(&args.dir, &init, (cert, key), now)?,
    };
    let authority = folder.authority().certificate();
    let (ca, own) = (args.dir.join(bundle::CA_CERT), args.dir.join(COLLECTOR));
    writeln!(out, "authority   {}  until {}", ca.display(), utc(authority.not_after))?;
    let ends = bundle::leaf(&own.join(bundle::LEAF_CERT))?.not_after;
    writeln!(out, "collector   {}  until {}", own.display(), utc(ends))?;
    writeln!(out, "next: tributary-certs issue CLUSTER --dir {}", args.dir.display())?;
    Ok(())
}

/// `tributary-certs issue`
pub fn issue(out: &mut dyn Write, args: &IssueArgs, now: SystemTime) -> anyhow::Result<()> {
    let folder = Folder::open(&args.folder.dir)?;
    let lifetime = DAY * args.days;
    let written = if args.name == COLLECTOR && args.out.is_none() {
        folder.issue_collector(&args.hosts, now, lifetime)?
    } else if args.hosts.is_empty() {
        let who = (args.name.as_str(), args.instance.as_str());
        folder.issue_agent(who, args.out.as_deref(), now, lifetime)?
    } else {
        return Err(anyhow!(
            "--host is only for the name \"collector\": agents are known by identity"
        ));
    };
    let Written { dir, certificate } = written;
    writeln!(out, "{}", certificate.uris.join(", "))?;
    writeln!(out, "written to {}  until {}", dir.display(), utc(certificate.not_after))?;
    Ok(())
}

/// `tributary-certs revoke`
pub fn revoke(out: &mut dyn Write, args: &RevokeArgs, now: SystemTime) -> anyhow::Result<()> {
    let whose = match (&args.name, &args.serial, args.spki) {
        (Some(name), ..) => Whose::Name(name.clone()),
        (None, Some(serial), _) => Whose::Serial(serial.clone()),
        (None, None, Some(key)) => Whose::Key(key),
        (None, None, None) => return Err(anyhow!("name what to revoke")),
    };
    let dir = &args.folder.dir;
    for denied in revoke::revoke(dir, &whose, &args.why, now)? {
        let identity = if denied.identity.is_empty() { "(unknown)" } else { &denied.identity };
        writeln!(out, "refused  {identity}  key {}  ({})", hex(&denied.spki_sha256), denied.why)?;
    }
    writeln!(
        out,
        "a collector with pki.dir on {} ends their streams within a second; others do not know of it",
        dir.display()
    )?;
    if let Whose::Name(name) = &whose {
        let cluster = name.split('/').next().unwrap_or(name);
        writeln!(out, "to let it in again: tributary-collector clusters add {cluster}")?;
    }
    Ok(())
}

/// `tributary-certs export`
pub fn export(
    out: &mut dyn Write,
    (name, folder): (&str, &FolderArg),
    (secret_name, namespace): (Option<&str>, Option<&str>),
) -> anyhow::Result<()> {
    let usual = if name == COLLECTOR { "tributary-collector-tls" } else { "tributary-agent-tls" };
    let place = Place { name: secret_name.unwrap_or(usual), namespace };
    let dir: PathBuf = folder.dir.join(name);
    out.write_all(export::kubernetes_secret(&dir, &place)?.as_bytes())?;
    Ok(())
}

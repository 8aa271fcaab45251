//! A configuration to start from.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use tributary_certs::tls::Files;

use super::{Args, JoinError, address, disk};

/// The allowlist to start from: enough to see that something arrives.
const ALLOWLIST: &str = "\
# Nothing leaves unless a rule lets it through; the first rule that matches decides.
# tributary-agent allowlist preview --prometheus http://127.0.0.1:9090 shows what would leave.
rules:
  - match: '{__name__=\"up\"}'
    why: shows which targets answer
";

/// What the configuration is made of.
pub(super) struct Starter<'a> {
    pub(super) cluster: &'a str,
    pub(super) instance: &'a str,
    pub(super) files: &'a Files,
    pub(super) args: &'a Args,
}

impl Starter<'_> {
    /// Writes what is not there yet; says what was written and what comes next.
    pub(super) fn write(&self, path: &Path) -> Result<String, JoinError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|source| disk("making", folder, source))?;
        }
        let text = self.text()?;
        let allowlist = path.with_file_name("allowlist.yml");
        let mut said = Vec::new();
        for (path, text) in [(path, text.as_str()), (&allowlist, ALLOWLIST)] {
            let word = if write_new(path, text)? { "wrote" } else { "kept" };
            said.push(format!("{word} {}\n", path.display()));
        }
        said.push(format!("next: tributary-agent run --config.file={}\n", path.display()));
        Ok(said.concat())
    }

    fn text(&self) -> Result<String, JoinError> {
        let way = match (&self.args.url, self.args.listen) {
            (Some(url), _) => format!("collector: {{ address: {} }}", quote(&address(url)?)),
            (None, listen) => {
                let listen = listen.map(|address| address.to_string()).unwrap_or_default();
                format!("listen: {{ grpc: {} }}", quote(&listen))
            }
        };
        let sources = match &self.args.prometheus {
            Some(url) => format!("federate: [ {{ url: {}, interval: 30s }} ]", quote(url)),
            None => "remote_write: { listen: 127.0.0.1:9392 }".to_owned(),
        };
        let path = |path: &Path| {
            let path = std::path::absolute(path).map_err(|source| disk("finding", path, source))?;
            Ok::<_, JoinError>(quote(&path.to_string_lossy()))
        };
        Ok(format!(
            "# tributary-agent check --config.file=FILE says whether it is right.\n\
             cluster: {}\ninstance: {}\n{way}\ntls:\n  cert_file: {}\n  key_file: {}\n  ca_file: {}\n\
             sources:\n  {sources}\nallowlist_file: allowlist.yml\nspool: {{ path: spool }}\n",
            quote(self.cluster),
            quote(self.instance),
            path(&self.files.cert_file)?,
            path(&self.files.key_file)?,
            path(&self.files.ca_file)?,
        ))
    }
}

/// A text as YAML takes it: the same as in JSON.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether it was written: what is there stays.
fn write_new(path: &Path, text: &str) -> Result<bool, JoinError> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).map_err(|source| disk("writing", path, source))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(disk("writing", path, source)),
    }
}

//! Keeps rule groups going: each at its slots, over reloads and restarts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tributary_model::diagnostic::Diagnostic;
use tributary_model::sample::{Sample, Timestamp, stale_nan};

use super::file;
use super::group::state::{GroupState, Leftover};
use super::group::{self, Context, Group};
use super::metrics::{ByGroup, Metrics};
use super::status::GroupStatus;
use super::{Host, Settings, builtin};
use crate::config::RuleFiles;
use crate::query::Point;

/// Largest rule file, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why rule files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file or folder cannot be read.
    #[error("reading rules from {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is too large.
    #[error("reading rules from {path}: the file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Files say what they should not.
    #[error("{}", join(.0))]
    Faults(Vec<Diagnostic>),
}

fn join(faults: &[Diagnostic]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// Reads all rule files of the configuration, and the built-in rules after them. All faults of all files are found.
pub fn load(sources: &[RuleFiles], settings: &Settings) -> Result<Vec<Group>, RulesError> {
    let (mut groups, mut faults) = (Vec::new(), Vec::new());
    for source in sources {
        let scoping = settings.scoping(source.scope);
        for pattern in &source.files {
            for path in expand(pattern)? {
                let text = read(&path)?;
                let file = path.display().to_string();
                match file::parse(&text, &file, &scoping) {
                    Ok(specs) => groups.extend(specs.into_iter().map(|spec| Group {
                        file: file.clone(),
                        scope: source.scope,
                        spec,
                    })),
                    Err(more) => faults.extend(more),
                }
            }
        }
    }
    if settings.builtin {
        match builtin::groups(settings) {
            Ok(more) => groups.extend(more),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(groups) } else { Err(RulesError::Faults(faults)) }
}

/// The text of a rule file.
pub(super) fn read(path: &Path) -> Result<String, RulesError> {
    let fail = |source| RulesError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(fail)?.len() > MAX_FILE_BYTES {
        return Err(RulesError::TooLarge { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(fail)
}

/// The files that a path with `*` and `?` in its last part stands for, sorted.
pub(super) fn expand(pattern: &Path) -> Result<Vec<PathBuf>, RulesError> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or("");
    if !name.contains(['*', '?']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let folder = pattern.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |source| RulesError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let found = entry.file_name();
        // Hidden names are left out: Kubernetes keeps old versions of mounted files under such names.
        if let Some(found) = found.to_str().filter(|found| !found.starts_with('.'))
            && matches(name.as_bytes(), found.as_bytes())
        {
            paths.push(pattern.with_file_name(found));
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Whether a name fits a pattern with `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last `*` must stand for one character more.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n + 1));
                p += 1;
            }
            Some(c) if *c == b'?' || name.get(n) == Some(c) => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after_star, next)) => {
                    (p, n) = (after_star, next);
                    retry = Some((after_star, next + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or(&[]).iter().all(|c| *c == b'*')
}

/// Runs rule groups. Cheap to clone; one of the clones runs.
pub struct Engine<H>(Arc<Inner<H>>);

impl<H> Clone for Engine<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<H> {
    host: H,
    metrics: Metrics,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Settings and groups that are to be run from now on.
    next: Mutex<Option<(Settings, Vec<Group>)>>,
    changed: Notify,
    published: Mutex<Vec<Published>>,
}

/// What a group last told about itself.
type Published = Arc<Mutex<GroupStatus>>;

impl<H: Host> Engine<H> {
    /// An engine for these groups, which have been read with these settings.
    pub fn new(settings: Settings, groups: Vec<Group>, host: H, metrics: Metrics) -> Self {
        Self::with_clock(settings, groups, host, metrics, || std::time::SystemTime::now().into())
    }

    /// The same with another clock, for tests.
    pub fn with_clock(
        settings: Settings,
        groups: Vec<Group>,
        host: H,
        metrics: Metrics,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let engine = Self(Arc::new(Inner {
            host,
            metrics,
            now: Box::new(now),
            next: Mutex::new(None),
            changed: Notify::new(),
            published: Mutex::new(Vec::new()),
        }));
        let fresh = |group: &Group| Arc::new(Mutex::new(GroupState::default().status(group)));
        *lock(&engine.0.published) = groups.iter().map(fresh).collect();
        *lock(&engine.0.next) = Some((settings, groups));
        engine
    }

    /// Runs other groups from now on. Rules that stay the same keep their state.
    pub fn replace(&self, settings: Settings, groups: Vec<Group>) {
        *lock(&self.0.next) = Some((settings, groups));
        self.0.changed.notify_one();
    }

    /// What the groups tell about themselves, in the order of the files.
    pub fn snapshot(&self) -> Vec<GroupStatus> {
        lock(&self.0.published).iter().map(|status| lock(status).clone()).collect()
    }

    /// Evaluates until the stop signal; evaluations under way are finished.
    pub async fn run(self, stop: CancellationToken) {
        let mut states: HashMap<String, GroupState> = HashMap::new();
        let mut current = None;
        loop {
            if let Some(next) = lock(&self.0.next).take() {
                current = Some(next);
            }
            let Some((settings, groups)) = &current else { return };
            self.drop_leftovers(groups, &mut states).await;
            states = self.round(settings, groups, states, &stop).await;
            if stop.is_cancelled() {
                return;
            }
            info!("the rules were replaced");
        }
    }

    /// Runs the groups until they are replaced or the stop signal comes; returns their states.
    async fn round(
        &self,
        settings: &Settings,
        groups: &[Group],
        mut states: HashMap<String, GroupState>,
        stop: &CancellationToken,
    ) -> HashMap<String, GroupState> {
        let round = stop.child_token();
        let mut running = FuturesUnordered::new();
        let mut published = Vec::new();
        for group in groups {
            let state = states.remove(&group.key()).unwrap_or_default();
            let status = Arc::new(Mutex::new(state.status(group)));
            published.push(Arc::clone(&status));
            running.push(self.keep_going(settings, group, state, status, round.clone()));
        }
        *lock(&self.0.published) = published;
        let mut ended = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.changed.notified() => break,
                Some((key, state)) = running.next() => {
                    ended.insert(key, state);
                }
            }
        }
        round.cancel();
        while let Some((key, state)) = running.next().await {
            ended.insert(key, state);
        }
        ended
    }

    async fn keep_going(
        &self,
        settings: &Settings,
        group: &Group,
        mut state: GroupState,
        status: Published,
        stop: CancellationToken,
    ) -> (String, GroupState) {
        let context = Context { host: &self.0.host, settings, metrics: &self.0.metrics };
        let now = || (self.0.now)();
        let mut slot = group.slot(now()).plus(group.interval());
        loop {
            let wait = slot.since(now());
            tokio::select! {
                () = stop.cancelled() => return (group.key(), state),
                () = tokio::time::sleep(wait) => {}
            }
            if now() < slot {
                continue;
            }
            // Slots that have passed meanwhile are not made up for.
            let due = group.slot(now());
            self.count_missed(group, slot, due);
            group::evaluate(group, &mut state, &context, due).await;
            *lock(&status) = state.status(group);
            slot = due.plus(group.interval());
        }
    }

    fn count_missed(&self, group: &Group, expected: Timestamp, due: Timestamp) {
        let missed = due.since(expected).as_millis() / group.interval().as_millis().max(1);
        let missed = u64::try_from(missed).unwrap_or(u64::MAX);
        if missed > 0 {
            warn!(group = group.spec.name, file = group.file, missed, "evaluations were missed");
            let labels = ByGroup { file: group.file.clone(), group: group.spec.name.clone() };
            self.0.metrics.missed.get_or_create(&labels).inc_by(missed);
        }
    }

    /// Ends the series of rules that are no longer there, and forgets their alerts.
    async fn drop_leftovers(&self, groups: &[Group], states: &mut HashMap<String, GroupState>) {
        let by_key: HashMap<String, &Group> = groups.iter().map(|g| (g.key(), g)).collect();
        let mut left = Leftover::default();
        for (key, state) in states.iter_mut() {
            let more = state.adapt(by_key.get(key).copied(), key);
            left.outputs.extend(more.outputs);
            left.keys.extend(more.keys);
        }
        states.retain(|key, _| by_key.contains_key(key));
        let end = Sample { at: (self.0.now)(), value: stale_nan() };
        if !left.outputs.is_empty() {
            let outputs = left.outputs.into_iter();
            let samples = outputs.map(|labels| (labels, Point::Number(end))).collect();
            if let Err(e) = self.0.host.write(samples).await {
                warn!("ending the series of removed rules failed: {e}");
            }
        }
        if !left.keys.is_empty() {
            let changes = left.keys.into_iter().map(|key| (key, None)).collect();
            if let Err(e) = self.0.host.put(changes).await {
                warn!("forgetting the alerts of removed rules failed: {e}");
                self.0.metrics.state_failures.inc();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

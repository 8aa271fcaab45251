//! From what sources bring to frames on disk: one task, one write and one sync for everything that waits.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_proto::frame::Gap;
use tributary_proto::limits;

use crate::allow::rules::Rules;
use crate::allow::{Allowlist, Kept};
use crate::config::Send;
use crate::metrics::SpoolMetrics;
use crate::source::{Arrival, Refusal};
use crate::spool::{Batch, Companion, SharedSpool, SpoolError};

/// Samples that are taken from the queue at once, at most about this many.
const BATCH_SAMPLES: usize = 100_000;
/// How often merges are looked at, and gaps that no samples take along.
const TICK: Duration = Duration::from_secs(1);
/// An unchanged metadata entry is sent again after this time: the collector may have lost it.
const METADATA_AGAIN: Duration = Duration::from_secs(3_600);
/// Metrics whose metadata is remembered as sent; one more, and all are sent again.
const MAX_METADATA: usize = 50_000;

/// Takes arrivals in order; the only one that applies the allowlist.
pub(crate) struct Pipeline {
    core: Core,
    arrivals: mpsc::Receiver<Arrival>,
    rules: mpsc::Receiver<Rules>,
    send: Send,
}

impl Pipeline {
    /// A pipeline from `arrivals` into `spool`; `rules` brings new allowlists.
    pub(crate) fn new(
        allow: Allowlist,
        spool: Arc<SharedSpool>,
        arrivals: mpsc::Receiver<Arrival>,
        rules: mpsc::Receiver<Rules>,
        metrics: SpoolMetrics,
    ) -> Self {
        let core = Core {
            allow,
            spool,
            metrics,
            watermark: Timestamp::MIN,
            gaps: Vec::new(),
            sent: HashMap::new(),
            hasher: RandomState::new(),
            broken: false,
        };
        let send = Send { max_delay: Duration::ZERO, max_bytes: 0 };
        Self { core, arrivals, rules, send }
    }

    /// What arrives waits for more.
    pub(crate) fn waiting(self, send: Send) -> Self {
        Self { send, ..self }
    }

    /// Runs until every source is gone, then puts out what merges still hold.
    pub(crate) async fn run(self) {
        let Self { mut core, mut arrivals, mut rules, send } = self;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let work = tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(first) => Work::Arrivals(batch(first, &mut arrivals, send).await),
                    None => break,
                },
                Some(rules) = rules.recv() => Work::Rules(rules),
                _ = tick.tick() => Work::Tick,
            };
            let Some(back) = blocking(core, work).await else { return };
            core = back;
        }
        blocking(core, Work::Finish).await;
    }
}

/// What there is to do next.
enum Work {
    Arrivals(Vec<Arrival>),
    Rules(Rules),
    Tick,
    Finish,
}

/// Everything that waits, and what comes until it has waited long enough; up to a bound.
async fn batch(first: Arrival, arrivals: &mut mpsc::Receiver<Arrival>, send: Send) -> Vec<Arrival> {
    let until = tokio::time::Instant::now() + send.max_delay;
    let enough = usize::try_from(send.max_bytes).unwrap_or(usize::MAX) / size_of::<Sample>();
    let mut samples = first.len();
    let mut batch = vec![first];
    while samples < BATCH_SAMPLES {
        let next = match arrivals.try_recv() {
            Ok(next) => Some(next),
            Err(_) if samples >= enough => None,
            Err(_) => tokio::time::timeout_at(until, arrivals.recv()).await.ok().flatten(),
        };
        let Some(next) = next else { break };
        samples += next.len();
        batch.push(next);
    }
    batch
}

/// Works where the disk may be waited for.
async fn blocking(mut core: Core, work: Work) -> Option<Core> {
    let done = tokio::task::spawn_blocking(move || {
        core.work(work, SystemTime::now().into());
        core
    });
    done.await.inspect_err(|error| tracing::error!(%error, "the pipeline stopped")).ok()
}

struct Core {
    allow: Allowlist,
    spool: Arc<SharedSpool>,
    metrics: SpoolMetrics,
    watermark: Timestamp,
    /// Gaps that sources know of and the spool has not taken yet.
    gaps: Vec<Gap>,
    /// When and as what a metric's metadata was sent last.
    sent: HashMap<String, (u64, Timestamp)>,
    hasher: RandomState,
    /// The spool failed and must be opened again.
    broken: bool,
}

/// Series and their samples.
type Samples = Vec<(Labels, Sample)>;
/// Series and their native histograms.
type Histograms = Vec<(Labels, HistogramSample)>;

impl Companion for Allowlist {
    fn snapshot(&self) -> Vec<u8> {
        Self::snapshot(self)
    }

    fn changes(&mut self) -> Option<Vec<u8>> {
        Self::changes(self)
    }

    fn restore(&mut self, snapshot: &[u8], changes: &[Vec<u8>]) {
        if let Err(error) = Self::restore(self, snapshot, changes) {
            tracing::error!(%error, "merges go on from memory");
        }
    }
}

impl Core {
    fn work(&mut self, work: Work, now: Timestamp) {
        match work {
            Work::Arrivals(arrivals) => self.take(arrivals, now),
            Work::Rules(rules) => self.allow.replace(rules),
            Work::Tick => {
                let kept = self.allow.tick(now);
                self.put_quietly(kept, now);
            }
            Work::Finish => {
                let kept = self.allow.finish(now);
                self.put_quietly(kept, now);
            }
        }
    }

    fn take(&mut self, arrivals: Vec<Arrival>, now: Timestamp) {
        if let Err(error) = self.mend() {
            return self.refuse(arrivals.into_iter().filter_map(|arrival| arrival.done), &error);
        }
        let mut all = Kept::default();
        let mut waiting = Vec::new();
        for arrival in arrivals {
            let Arrival { samples, histograms, metadata, gaps, done } = arrival;
            let kept = self.allow.apply(samples, histograms, metadata, now);
            if all.samples.is_empty() {
                all.samples = kept.samples;
            } else {
                all.samples.extend(kept.samples);
            }
            all.histograms.extend(kept.histograms);
            all.metadata.extend(kept.metadata);
            self.gaps.extend(gaps);
            waiting.extend(done);
        }
        match self.put(all, now) {
            Ok(()) => waiting.into_iter().for_each(|done| drop(done.send(Ok(())))),
            Err(error) => self.refuse(waiting.into_iter(), &error),
        }
    }

    fn refuse(
        &self,
        waiting: impl Iterator<Item = tokio::sync::oneshot::Sender<Result<(), Refusal>>>,
        error: &SpoolError,
    ) {
        let why = crate::link::chain(error);
        for done in waiting {
            self.metrics.refused.inc();
            let _ = done.send(Err(Refusal::Spool(why.clone())));
        }
    }

    /// Puts out what nobody waits for; after a failure the merges' state brings it again.
    fn put_quietly(&mut self, kept: Kept, now: Timestamp) {
        if self.mend().is_ok() {
            let _ = self.put(kept, now);
        }
    }

    fn put(&mut self, kept: Kept, now: Timestamp) -> Result<(), SpoolError> {
        let Kept { samples, histograms, mut metadata } = kept;
        metadata.retain(|entry| self.is_news(entry, now));
        let complete_until = self.advance(&samples, &histograms, now);
        let batch = Batch {
            samples: &samples,
            histograms: &histograms,
            metadata: &metadata,
            gaps: &self.gaps,
            complete_until,
        };
        let allow = &mut self.allow;
        let put = self.spool.with(|spool| spool.append(&batch, allow, now));
        match &put {
            Ok(()) => {
                self.gaps.clear();
                self.metrics.spooled.inc_by((samples.len() + histograms.len()) as u64);
            }
            Err(error) => {
                tracing::error!(error = crate::link::chain(error), "writing to the spool failed");
                self.broken = true;
                // What was in the batch is not on disk; it is news again.
                self.sent.clear();
            }
        }
        put
    }

    /// Opens a spool that failed again.
    fn mend(&mut self) -> Result<(), SpoolError> {
        if self.broken {
            self.spool.reopen(&mut self.allow)?;
            tracing::info!("the spool is open again");
            self.broken = false;
        }
        Ok(())
    }

    /// The time up to which nothing is missing any more: what arrives comes in order of time, apart from merges that
    /// still wait for members.
    fn advance(&mut self, samples: &Samples, histograms: &Histograms, now: Timestamp) -> Timestamp {
        let of_histograms = histograms.iter().map(|(_, sample)| sample.at);
        let oldest = samples.iter().map(|(_, sample)| sample.at).chain(of_histograms).min();
        if let Some(oldest) = oldest {
            self.watermark = self.watermark.max(oldest.min(now));
        }
        let pending = self.allow.oldest_pending().unwrap_or(Timestamp::MAX);
        self.watermark.min(pending).max(Timestamp::default())
    }

    /// Whether a metadata entry has to be sent, and can be.
    fn is_news(&mut self, entry: &Metadata, now: Timestamp) -> bool {
        let texts = [&entry.metric, &entry.help, &entry.unit];
        if texts.iter().any(|text| text.len() > limits::MAX_METADATA_TEXT_BYTES) {
            return false;
        }
        let hash = self.hasher.hash_one(entry);
        let known = self.sent.get(&entry.metric);
        if known.is_some_and(|(h, at)| *h == hash && now.since(*at) < METADATA_AGAIN) {
            return false;
        }
        if self.sent.len() >= MAX_METADATA {
            self.sent.clear();
        }
        self.sent.insert(entry.metric.clone(), (hash, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(samples: i64) -> Arrival {
        let labels = Labels::from_pairs([("__name__", "up")]).unwrap();
        let sample = |at| (labels.clone(), Sample::new(at, 1.0));
        Arrival { samples: (0..samples).map(sample).collect(), ..Arrival::default() }
    }

    #[tokio::test]
    async fn arrivals_wait_for_others_until_they_are_enough() {
        let (sender, mut arrivals) = mpsc::channel(8);
        let send = Send { max_delay: Duration::from_secs(3600), max_bytes: 3 * 16 };
        for (first, later, expected) in [(3, vec![], 1), (1, vec![1, 1], 3), (1, vec![5], 2)] {
            let later = async {
                for samples in later {
                    sender.send(arrival(samples)).await.unwrap();
                }
            };
            let (taken, ()) = tokio::join!(batch(arrival(first), &mut arrivals, send), later);
            assert_eq!(taken.len(), expected);
        }
        // Without a delay only what is there already joins.
        sender.send(arrival(1)).await.unwrap();
        let at_once = Send { max_delay: Duration::ZERO, max_bytes: 1 << 20 };
        assert_eq!(batch(arrival(1), &mut arrivals, at_once).await.len(), 2);
        // When every source is gone nobody is waited for.
        drop(sender);
        assert_eq!(batch(arrival(1), &mut arrivals, send).await.len(), 1);
    }
}

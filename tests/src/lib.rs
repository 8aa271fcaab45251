//! A world for stories: the real binaries, on free ports, in a folder that vanishes.

pub mod fleet;
pub mod fleet_data;
pub mod grafana;
pub mod http;
pub mod link;
pub mod load;
pub mod mailbox;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod world;

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a story waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer, or fails with what was asked for.
pub async fn eventually<T, F, Fut>(what: &str, ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    patiently(ask).await.unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"))
}

/// Asks again until there is an answer, or until patience ends.
pub async fn patiently<T, F, Fut>(mut ask: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Now, in milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

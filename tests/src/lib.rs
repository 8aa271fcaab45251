//! A world for stories: the real binaries, on free ports, in a folder that vanishes.

pub mod http;
pub mod link;
pub mod mailbox;
pub mod process;
pub mod prometheus;
pub mod world;

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a story waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer, or fails with what was asked for.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Now, in milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

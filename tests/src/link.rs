//! A wire between an agent and the collector that can be cut and mended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP relay to one address.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    carried: Arc<AtomicU64>,
}

impl Link {
    /// Listens on a free port and relays to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, state) = watch::channel(true);
        let carried = Arc::new(AtomicU64::new(0));
        tokio::spawn(accept(listener, target, state, Arc::clone(&carried)));
        Self { address, whole, carried }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection and refuses new ones.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }

    /// Bytes carried in both directions.
    pub fn carried_bytes(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    state: watch::Receiver<bool>,
    carried: Arc<AtomicU64>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if !*state.borrow() {
            continue;
        }
        let mut state = state.clone();
        let carried = Arc::clone(&carried);
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            let cut = async { state.wait_for(|whole| !whole).await.map(|_| ()) };
            tokio::select! {
                () = relay(near, far, carried) => {}
                _ = cut => {}
            }
        });
    }
}

async fn relay(near: TcpStream, far: TcpStream, carried: Arc<AtomicU64>) {
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::select! {
        () = copy(near_in, far_out, &carried) => {}
        () = copy(far_in, near_out, &carried) => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    carried: &AtomicU64,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        carried.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

//! The connection to a mail server before TLS: read byte by byte, so that nothing sent in clear text is taken for
//! something that came under TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake record; no SMTP command begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// A TCP stream that gives out one byte a read until a TLS handshake is written to it. Bytes that a server (or
/// somebody in between) sends after its answer to STARTTLS stay unread until the handshake, and break it.
#[derive(Debug)]
pub(super) struct Guarded {
    tcp: TcpStream,
    tls: bool,
}

impl Guarded {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, tls: false }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tls || out.remaining() == 0 {
            return Pin::new(&mut self.tcp).poll_read(cx, out);
        }
        let mut byte = [0u8; 1];
        let mut one = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut one);
        if polled.is_ready() {
            out.put_slice(one.filled());
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.first() == Some(&TLS_HANDSHAKE) {
            self.tls = true;
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for Guarded {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }
}

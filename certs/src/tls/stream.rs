//! Encrypted connections, with what is known about the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::handshake::in_words;
use crate::identity::Identity;

/// Who was found at the other end; all of it from the certificate that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whom the certificate speaks for.
    pub identity: Identity,
    /// The certificate's serial number in hexadecimal digits.
    pub serial: String,
    /// From when the certificate is valid.
    pub not_before: SystemTime,
    /// Until when the certificate is valid; the stream must end then.
    pub not_after: SystemTime,
    /// The hash of the peer's public key: the same key is the same process's folder.
    pub spki_sha256: [u8; 32],
    /// The hashes of the keys of the intermediates that it sent with its certificate.
    pub intermediates: Vec<[u8; 32]>,
    /// The authority that signed.
    pub issuer: String,
    /// The authority in our bundle that the certificate chains to (SHA-256 of its SPKI): the stream must end when it
    /// leaves the bundle.
    pub authority: [u8; 32],
    /// Its name.
    pub authority_name: String,
    /// Which of our configurations accepted it; counted from 1, up by 1 with each `replace`.
    pub generation: u64,
    /// The authority of *our* certificate in this connection.
    pub local_authority: [u8; 32],
    /// SHA-256 of *our* certificate in this connection: when we have another one, a new connection is due.
    pub local_sha256: [u8; 32],
    /// Where the connection comes from or goes to.
    pub address: SocketAddr,
}

/// A connection whose other end is known.
pub type PeerStream = Encrypted<Peer>;

/// A connection over which somebody without a certificate asks for one.
pub type EnrolStream = Encrypted<Enrolling>;

/// What is known about the other end while somebody enrols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolling {
    /// Where the connection comes from or goes to.
    pub address: SocketAddr,
    /// On the agent's side, the collector; its authority had the key that was expected.
    pub collector: Option<Collector>,
}

/// The collector that an agent without a certificate has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Whom its certificate speaks for.
    pub identity: Identity,
    /// Its authority (SHA-256 of the SPKI).
    pub authority: [u8; 32],
}

/// An encrypted connection, and what is known about its other end.
pub struct Encrypted<T> {
    stream: TlsStream<TcpStream>,
    end: T,
}

impl<T> Encrypted<T> {
    pub(crate) fn new(stream: TlsStream<TcpStream>, end: T) -> Self {
        Self { stream, end }
    }
}

impl PeerStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.end
    }
}

impl EnrolStream {
    /// Where the connection comes from or goes to.
    pub fn address(&self) -> SocketAddr {
        self.end.address
    }

    /// On the agent's side, the collector at the other end.
    pub fn collector(&self) -> Option<&Collector> {
        self.end.collector.as_ref()
    }
}

impl<T: Unpin> AsyncRead for Encrypted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf).map_err(in_words)
    }
}

impl<T: Unpin> AsyncWrite for Encrypted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

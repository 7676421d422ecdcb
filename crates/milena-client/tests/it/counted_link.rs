//! Links inside the process whose writes are counted: on a socket each of them would be a system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Client, Connector, TimeSource, Transport};
use tokio::io::AsyncWrite;

/// What all links of a client wrote.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    writes: AtomicU64,
    bytes: AtomicU64,
    /// What is written is counted and dropped, so that nothing but the client allocates.
    swallow: AtomicBool,
}

impl Counts {
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(SeqCst)
    }

    pub(crate) fn swallow(&self) {
        self.swallow.store(true, SeqCst);
    }
}

#[derive(Debug)]
struct CountedLink(Broker, Arc<Counts>);

impl Connector for CountedLink {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let stream = self.0.connect(address.host(), address.port());
        let counts = Arc::clone(&self.1);
        Box::pin(async move {
            let mut transport = Transport::memory(stream?, address.to_string());
            transport.writer = Box::new(Writer { writer: transport.writer, counts });
            Ok(transport)
        })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

struct Writer {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    counts: Arc<Counts>,
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// Takes all slices, as a socket with room does; a link in the process would take the first alone.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        let swallow = self.counts.swallow.load(SeqCst);
        for slice in slices {
            let took = match swallow {
                true => slice.len(),
                false => match Pin::new(&mut self.writer).poll_write(context, slice) {
                    Poll::Ready(took) => took?,
                    Poll::Pending if written > 0 => break,
                    Poll::Pending => return Poll::Pending,
                },
            };
            written += took;
            if took < slice.len() {
                break;
            }
        }
        self.counts.writes.fetch_add(1, SeqCst);
        self.counts.bytes.fetch_add(written as u64, SeqCst);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

/// A client in virtual time whose writes are counted.
pub(crate) async fn client(broker: &Broker) -> (Client, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let link = CountedLink(broker.clone(), Arc::clone(&counts));
    let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let builder = Client::builder().bootstrap(broker.bootstrap()).expect("addresses");
    let client = builder.connector(Arc::new(link)).clock(clock).seed(7).build().await;
    (client.expect("the broker answers"), counts)
}

/// Requests that the broker's nodes have answered.
pub(crate) fn requests(broker: &Broker) -> u64 {
    broker.requests().iter().map(|count| count.count).sum()
}

//! Links inside the process to the broker that answers at once: no socket, no thread, so that a run is the same every time.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use milena_client::{BoxFuture, BrokerAddress, Connector, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::answer_at_once::{Answer, Broker};

/// Bytes on the way in each direction: a batch of 1 MB goes in one write.
const CAPACITY: usize = 4 * 1024 * 1024;

/// Leads every address to one broker.
pub struct Link(pub Arc<Broker>);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Connector for Link {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let broker = Arc::clone(&self.0);
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(CAPACITY);
            tokio::spawn(async move {
                // The client has gone: whoever measures it sees that for himself.
                let _ = converse(&broker, theirs).await;
            });
            Ok(Transport::memory(ours, address.to_string()))
        })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

async fn converse(broker: &Broker, mut stream: DuplexStream) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let length = stream.read_i32().await?;
        buffer.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        stream.read_exact(&mut buffer).await?;
        let request = buffer.split().freeze();
        let Answer { frame, after } = broker.answer(request.clone()).map_err(io::Error::other)?;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        stream.write_all(&frame).await?;
        if let Ok(again) = request.try_into_mut() {
            buffer = again;
            buffer.clear();
        }
    }
}

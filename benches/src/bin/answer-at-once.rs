//! `answer-at-once`: a broker that keeps nothing, for measuring clients. Prints `listening on HOST:PORT` when it serves, and
//! for each topic that is named on a line of its input a line of JSON with what was produced to it.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use clap::Parser;
use milena_benches::answer_at_once::{self, Broker, Claims, Tally};
use milena_protocol::compress::Compression;

#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Partitions of each topic
    #[arg(long, default_value_t = 16)]
    partitions: i32,
    /// Records that a consumer finds in each partition
    #[arg(long, default_value_t = 1_000_000)]
    records: i64,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Bytes of a batch before compression
    #[arg(long, default_value_t = 16 * 1024)]
    batch: usize,
    /// Codec of the batches: none, gzip, snappy, lz4, zstd
    #[arg(long, default_value = "none")]
    compression: String,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let codec = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        .into_iter()
        .find(|codec| codec.to_string() == arguments.compression)
        .ok_or_else(|| io::Error::other("no such codec"))?;
    let listener = TcpListener::bind(&arguments.listen)?;
    println!("listening on {}", listener.local_addr()?);
    io::stdout().flush()?;
    let claims = Claims {
        partitions: arguments.partitions,
        records: arguments.records,
        value_bytes: arguments.size,
        batch_bytes: arguments.batch,
        codec,
    };
    let broker = Broker::new(listener.local_addr()?, claims);
    let serving = {
        let broker = Arc::clone(&broker);
        thread::spawn(move || answer_at_once::serve(&listener, &broker))
    };
    for topic in io::stdin().lock().lines() {
        println!("{}", json(broker.tally(&topic?)));
        io::stdout().flush()?;
    }
    serving.join().map_err(|_| io::Error::other("the listener's thread panicked"))?
}

fn json(tally: Tally) -> String {
    let Tally { batches, bytes, records_by_codec } = tally;
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"].iter().zip(records_by_codec);
    let codecs: Vec<_> = codecs.map(|(codec, records)| format!("\"{codec}\":{records}")).collect();
    format!("{{\"batches\":{batches},\"bytes\":{bytes},\"records_by_codec\":{{{}}}}}", codecs.join(","))
}

//! The few requests that tell whether a broker serves, written out by hand: xtask depends on no crate that it judges.
//! Old versions without tagged fields, since Kafka still serves them.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;

/// Longer than any answer of a healthy broker on this machine.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The most an answer to us may hold.
const MAX_RESPONSE: usize = 1 << 20;

/// One connection to one broker.
pub(super) struct Probe(TcpStream);

impl Probe {
    pub(super) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        Ok(Self(stream))
    }

    /// ApiVersions v0: does the broker speak at all?
    pub(super) fn api_versions(&mut self) -> io::Result<()> {
        let mut answer = Answer(self.exchange(API_VERSIONS, 0, &[])?);
        answer.no_error()
    }

    /// Metadata v1 without topics: the brokers that this one knows to be alive, none while there is no controller.
    pub(super) fn brokers(&mut self) -> io::Result<Vec<i32>> {
        let mut answer = Answer(self.exchange(METADATA, 1, &0_i32.to_be_bytes())?);
        let mut brokers = Vec::new();
        for _ in 0..answer.int32()? {
            brokers.push(answer.int32()?);
            answer.string()?; // host
            answer.int32()?; // port
            answer.string()?; // rack
        }
        if answer.int32()? < 0 {
            brokers.clear();
        }
        Ok(brokers)
    }

    /// IncrementalAlterConfigs v0: sets `key` for every broker of the cluster, as a dynamic default.
    pub(super) fn set_cluster_default(&mut self, key: &str, value: &str) -> io::Result<()> {
        const BROKER: i8 = 4;
        const SET: i8 = 0;
        let mut body = Vec::new();
        body.extend(1_i32.to_be_bytes());
        body.extend(BROKER.to_be_bytes());
        put_string(&mut body, "");
        body.extend(1_i32.to_be_bytes());
        put_string(&mut body, key);
        body.extend(SET.to_be_bytes());
        put_string(&mut body, value);
        body.push(0); // validate_only
        let mut answer = Answer(self.exchange(INCREMENTAL_ALTER_CONFIGS, 0, &body)?);
        answer.int32()?; // throttle time
        answer.int32()?; // one resource
        answer.no_error()
    }

    fn exchange(&mut self, api_key: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut frame = Vec::new();
        frame.extend(api_key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(1_i32.to_be_bytes());
        put_string(&mut frame, "milena-xtask");
        frame.extend(body);
        let size = i32::try_from(frame.len()).expect("our requests are small");
        self.0.write_all(&size.to_be_bytes())?;
        self.0.write_all(&frame)?;

        let mut size = [0; 4];
        self.0.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if !(4..=MAX_RESPONSE).contains(&size) {
            return Err(invalid("the answer isn't Kafka's"));
        }
        let mut response = vec![0; size];
        self.0.read_exact(&mut response)?;
        Ok(response.split_off(4)) // correlation id: one request at a time
    }
}

/// What is left of an answer's body.
struct Answer(Vec<u8>);

impl Answer {
    fn take(&mut self, n_bytes: usize) -> io::Result<Vec<u8>> {
        if n_bytes > self.0.len() {
            return Err(invalid("the answer is cut off"));
        }
        let rest = self.0.split_off(n_bytes);
        Ok(std::mem::replace(&mut self.0, rest))
    }

    fn int16(&mut self) -> io::Result<i16> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn int32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> io::Result<()> {
        let length = self.int16()?;
        self.take(usize::try_from(length).unwrap_or(0))?;
        Ok(())
    }

    fn no_error(&mut self) -> io::Result<()> {
        match self.int16()? {
            0 => Ok(()),
            code => Err(invalid(&format!("the broker answers error {code}"))),
        }
    }
}

fn put_string(buffer: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("our strings are short");
    buffer.extend(length.to_be_bytes());
    buffer.extend(text.as_bytes());
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

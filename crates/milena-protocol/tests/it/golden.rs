//! Frames that a real broker and the Java client exchanged, decoded and written again to the same bytes. Where they
//! come from is in `testdata/frames/README.md`.

use std::{fs, path::Path};

use bytes::{Bytes, BytesMut};
use milena_protocol::{
    ApiKey, Message,
    frame::{
        FrameDecoder, decode_request_header, decode_response_header, encode_request_header, encode_response_header,
    },
};

use crate::generated;

/// `Fetch.v17.response.large.bin`.
struct Golden {
    name: String,
    api: String,
    version: i16,
    is_request: bool,
    /// Without its length prefix.
    frame: Bytes,
}

impl Golden {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/frames");
        let files =
            fs::read_dir(&folder).expect("testdata is there").map(|entry| entry.expect("it can be read").path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
            .map(|path| Self::read(&path))
            .collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.file_name().expect("it is a file").to_string_lossy().into_owned();
        let mut parts = name.split('.');
        let mut part = || parts.next().expect("API.vVERSION.request|response").to_owned();
        let (api, version, direction) = (part(), part(), part());
        let mut decoder = FrameDecoder::new(1 << 20);
        decoder.push(&fs::read(path).expect("it can be read"));
        let frame = decoder.next_frame().expect("it is a frame").expect("it is whole");
        assert!(decoder.buffer().is_empty(), "{name}");
        Self {
            version: version[1..].parse().expect("vVERSION"),
            is_request: match &*direction {
                "request" => true,
                "response" => false,
                other => panic!("{name}: {other}"),
            },
            name,
            api,
            frame,
        }
    }

    fn message(&self) -> String {
        format!("{}{}", self.api, if self.is_request { "Request" } else { "Response" })
    }

    /// The body, after a header that is written again to the same bytes.
    fn body(&self) -> Bytes {
        let key = *ApiKey::ALL.iter().find(|key| key.name() == self.api).expect("the API is known");
        let mut body = self.frame.clone();
        let mut header = BytesMut::new();
        if self.is_request {
            let read = decode_request_header(&mut body).expect("the header is Kafka's");
            assert_eq!((read.api_key, read.api_version), (key.into(), self.version), "{}", self.name);
            encode_request_header(&mut header, key, self.version, read.correlation_id, read.client_id.as_deref())
                .expect("the client id is short");
        } else {
            let correlation_id = decode_response_header(&mut body, key, self.version).expect("the header is Kafka's");
            encode_response_header(&mut header, key, self.version, correlation_id);
        }
        assert_eq!(header, self.frame[..self.frame.len() - body.len()], "{}: header", self.name);
        body
    }

    fn round_trips<M: Message>(&self) {
        let body = self.body();
        let value =
            M::decode_exact(self.version, body.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let mut again = BytesMut::new();
        value.encode(self.version, &mut again).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(again, body, "{}: {value:#?}", self.name);
    }
}

macro_rules! by_name {
    ($($module:ident $message:ident)*) => {
        fn round_trips(golden: &Golden) {
            match golden.message().as_str() {
                $(stringify!($message) => golden.round_trips::<milena_protocol::messages::$message>(),)*
                other => panic!("{}: {other} is no message", golden.name),
            }
        }
    };
}

generated::every_message!(by_name);

#[test]
fn frames_of_kafka_are_written_again_to_the_same_bytes() {
    let all = Golden::all();
    assert!(all.len() >= 320, "{} frames", all.len());
    all.iter().for_each(round_trips);
    let mut apis: Vec<_> = all.iter().map(|golden| golden.api.as_str()).collect();
    apis.sort_unstable();
    apis.dedup();
    assert!(apis.len() >= 74, "{} APIs", apis.len());
}

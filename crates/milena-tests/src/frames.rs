//! Where frames begin in a stream of bytes that comes in pieces, and whose they are. Looks at no more than that.

/// What goes before a request: the length, what is asked, in which version, the number that comes back, and who asks.
const HEAD: usize = 4 + 2 + 2 + 4 + 2;
const LENGTH: usize = 4;
/// No client of ours has a longer name.
const LONGEST_NAME: usize = 255;

/// One direction of a connection, as far as it has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// Bytes of the frame that have passed, and how many it has; unknown for the first four.
    passed: usize,
    whole: Option<usize>,
    /// The first of them.
    head: Vec<u8>,
    told: bool,
}

/// A request that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) api: i16,
    pub(crate) client: String,
}

impl Frames {
    /// Lets bytes pass; gives back the requests among them, each as soon as its head is there.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<Asked> {
        let mut asked = Vec::new();
        for &byte in bytes {
            self.passed += 1;
            if self.head.len() < HEAD + LONGEST_NAME {
                self.head.push(byte);
            }
            if self.passed == LENGTH {
                let length = self.head.iter().fold(0_u32, |length, byte| length << 8 | u32::from(*byte));
                self.whole = Some(LENGTH + usize::try_from(length).unwrap_or(usize::MAX >> 1));
            }
            let is_whole = self.whole == Some(self.passed);
            if !self.told
                && let Some(of) = self.asked(is_whole)
            {
                self.told = true;
                asked.push(of);
            }
            if is_whole {
                *self = Self::default();
            }
        }
        asked
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.passed > 0
    }

    fn asked(&self, is_whole: bool) -> Option<Asked> {
        let number = |at: usize| Some(i16::from_be_bytes([*self.head.get(at)?, *self.head.get(at + 1)?]));
        let api = number(LENGTH)?;
        let length = number(HEAD - 2).map(|length| usize::try_from(length).unwrap_or(0));
        match length.and_then(|length| self.head.get(HEAD..HEAD + length.min(LONGEST_NAME))) {
            Some(client) => Some(Asked { api, client: String::from_utf8_lossy(client).into_owned() }),
            // Too short for a name, or for anything.
            None if is_whole => Some(Asked { api, client: String::new() }),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_seen_however_their_bytes_are_cut() {
        let request = |api: u8, client: &str, body: &[u8]| {
            let mut bytes = vec![0, api, 0, 1, 0, 0, 0, 9, 0, u8::try_from(client.len()).unwrap()];
            bytes.extend_from_slice(client.as_bytes());
            bytes.extend_from_slice(body);
            [&[0, 0, 0, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat()
        };
        let stream = [request(3, "one", b"body"), vec![0, 0, 0, 2, 0, 18], request(1, "", b""), request(0, "two", b"")];
        let ends: Vec<usize> = stream
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let stream = stream.concat();
        for piece in 1..=stream.len() {
            let mut frames = Frames::default();
            let (mut asked, mut passed) = (Vec::new(), 0);
            for bytes in stream.chunks(piece) {
                asked.extend(frames.pass(bytes).into_iter().map(|asked| (asked.api, asked.client)));
                passed += bytes.len();
                assert_eq!(frames.is_within(), !ends.contains(&passed), "at {passed}, in pieces of {piece}");
            }
            let expected = [(3, "one"), (18, ""), (1, ""), (0, "two")].map(|(api, client)| (api, client.to_owned()));
            assert_eq!(asked, expected, "in pieces of {piece}");
        }
    }
}

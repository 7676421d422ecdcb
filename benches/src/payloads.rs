//! What records are filled with to measure compression: seeded, so that a figure can be had again.

/// What a payload is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Events as JSON: the same names in each, other values. About 250 bytes each.
    Json,
    /// Lines of English words, by Zipf's law. About 100 bytes each.
    Text,
    /// Half of it JSON, half of it noise in base64, as a token or a signature.
    HalfRandom,
    /// Random bytes: encrypted, or compressed before.
    Random,
}

impl Payload {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Text, Self::HalfRandom, Self::Random];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON events",
            Self::Text => "text lines",
            Self::HalfRandom => "half random",
            Self::Random => "random",
        }
    }

    /// One record's value.
    pub fn value(self, rng: &mut fastrand::Rng) -> Vec<u8> {
        match self {
            Self::Json => json(rng, "").into_bytes(),
            Self::Text => text(rng).into_bytes(),
            Self::HalfRandom => {
                let token: String = (0..200).map(|_| char::from(BASE64[rng.usize(..64)])).collect();
                json(rng, &token).into_bytes()
            }
            Self::Random => (0..200).map(|_| rng.u8(..)).collect(),
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const KINDS: [&str; 5] = ["order_placed", "order_paid", "order_shipped", "order_cancelled", "refund_requested"];
const CITIES: [&str; 6] = ["Prague", "Vienna", "Berlin", "Milan", "Ravensburg", "Paris"];
const WORDS: &str = "the of and to in a is that it was for on with as his he be at by had not are but from or have an \
                     they which one you were her all she there would their we him been has when who will more no if \
                     out so said what up its about into than them can only other new some could time these two may \
                     then do first any my now such like our over man me even most made after also did many before \
                     must through years where much your way well down should because each just those people how too \
                     little state good very make world still own see men work long get here between both life being \
                     under never day same another know while last might us great old year off come since against go \
                     came right used take three letter castle trial answer window journey winter silence";

fn json(rng: &mut fastrand::Rng, token: &str) -> String {
    let signed = if token.is_empty() { String::new() } else { format!(",\"signature\":\"{token}\"") };
    format!(
        "{{\"event_id\":\"{:016x}\",\"event_type\":\"{}\",\"customer\":{},\"amount\":{}.{:02},\"currency\":\"EUR\",\
         \"city\":\"{}\",\"items\":[{{\"sku\":\"SKU-{:06}\",\"quantity\":{}}}],\
         \"timestamp\":\"2026-11-28T{:02}:{:02}:{:02}Z\"{signed}}}",
        rng.u64(..),
        KINDS[rng.usize(..KINDS.len())],
        rng.u32(..2_000_000),
        rng.u32(1..500),
        rng.u32(..100),
        CITIES[rng.usize(..CITIES.len())],
        rng.u32(..1_000_000),
        rng.u32(1..5),
        rng.u32(..24),
        rng.u32(..60),
        rng.u32(..60),
    )
}

fn text(rng: &mut fastrand::Rng) -> String {
    let words: Vec<_> = WORDS.split_whitespace().collect();
    let mut line = String::new();
    while line.len() < 100 {
        // The word of rank r about 1/r as often.
        let rank = (words.len() as f64).powf(rng.f64()) as usize - 1;
        line.push_str(words[rank.min(words.len() - 1)]);
        line.push(' ');
    }
    line.pop();
    line
}

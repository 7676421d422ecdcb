//! Compression of record batches, one file per codec.

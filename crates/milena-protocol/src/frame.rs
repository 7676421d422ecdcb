//! Frames: length prefix, request and response headers.

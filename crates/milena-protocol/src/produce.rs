//! Produce requests framed by hand, so that a payload is never copied.

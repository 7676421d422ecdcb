//! Fetch responses decoded by hand, so that records stay slices of the frame.

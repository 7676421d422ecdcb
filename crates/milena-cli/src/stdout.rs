//! Results on stdout, for readers that may go away before the end.

use std::io::{self, Write as _};

use crate::failure::Failure;

/// Prints one line, at once: whoever reads it may wait for it behind a pipe.
///
/// `println!` panics when the reader is gone, as after `| head -1`; here that is [`Failure::ReaderGone`].
pub(crate) fn line(line: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Prints text that brings its own line feeds.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Resolves when nobody reads stdout any more; never where the system does not tell, as with a file.
///
/// Without it, a command that waits for more records would learn of it only when it writes the next.
pub(crate) async fn reader_gone() {
    #[cfg(unix)]
    {
        // The thread waits as long as the reader stays; the end of the process ends it.
        if matches!(tokio::task::spawn_blocking(wait_until_reader_gone).await, Ok(true)) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(unix)]
fn wait_until_reader_gone() -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let out = io::stdout();
    loop {
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) => return watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

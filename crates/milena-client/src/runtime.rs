//! Where the client's tasks run: the caller's runtime or a network thread of the client's own.

use std::io;
use std::sync::mpsc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Where the client's tasks run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum RuntimeChoice {
    /// On the runtime that builds the client. A handler that blocks all of its workers delays heartbeats too; that is
    /// logged, with its length.
    #[default]
    Current,
    /// On the given runtime.
    Handle(Handle),
    /// On a thread of the client's own: heartbeats and deadlines hold whatever the application's workers do.
    Dedicated,
}

/// A chosen runtime; a dedicated one ends when this is dropped.
#[derive(Debug)]
pub(crate) struct NetworkRuntime {
    handle: Handle,
    // Dropped, it ends the thread.
    stop: Option<oneshot::Sender<()>>,
}

impl NetworkRuntime {
    /// # Errors
    /// Outside a runtime with [`RuntimeChoice::Current`], or when no thread can be had.
    pub(crate) fn new(choice: &RuntimeChoice) -> io::Result<Self> {
        match choice {
            RuntimeChoice::Current => {
                let handle = Handle::try_current().map_err(io::Error::other)?;
                Ok(Self { handle, stop: None })
            }
            RuntimeChoice::Handle(handle) => Ok(Self { handle: handle.clone(), stop: None }),
            RuntimeChoice::Dedicated => Self::dedicated(),
        }
    }

    fn dedicated() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, start) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("milena-network".to_owned()).spawn(move || {
            let serve = async move {
                started.send(()).ok();
                drop(stopped.await);
            };
            runtime.block_on(serve);
        })?;
        start.recv().map_err(|_| io::Error::other("the network thread ended before it began"))?;
        Ok(Self { handle, stop: Some(stop) })
    }

    /// Whether the application's own tasks may keep the client's from running.
    pub(crate) fn is_shared(&self) -> bool {
        self.stop.is_none()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

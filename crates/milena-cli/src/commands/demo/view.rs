//! The live view of the demo on stderr; nothing when stderr is no terminal.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

#[derive(Debug)]
pub(crate) struct View {
    _all: MultiProgress,
    pub(crate) published: ProgressBar,
    pub(crate) handled: ProgressBar,
    pub(crate) troubles: ProgressBar,
}

impl View {
    pub(crate) fn new(total: u64) -> Self {
        let all = MultiProgress::new();
        if !std::io::stderr().is_terminal() {
            let hidden = ProgressBar::hidden;
            return Self { _all: all, published: hidden(), handled: hidden(), troubles: hidden() };
        }
        let style = |template| ProgressStyle::with_template(template).expect("the template is a constant that parses");
        let bar = "{prefix:>10} [{bar:40}] {pos:>6}/{len} {per_sec}";
        let published = all.add(ProgressBar::new(total).with_style(style(bar)).with_prefix("published"));
        let handled = all.add(ProgressBar::new(total).with_style(style(bar)).with_prefix("handled"));
        let troubles =
            all.add(ProgressBar::new_spinner().with_style(style("{prefix:>10} {msg}")).with_prefix("troubles"));
        Self { _all: all, published, handled, troubles }
    }

    pub(crate) fn end(&self) {
        for bar in [&self.published, &self.handled, &self.troubles] {
            bar.finish_and_clear();
        }
    }
}

//! The live view of the demo on stderr; nothing when stderr is no terminal.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use milena::SubscriptionStatus;

use super::summary::thousands;

#[derive(Debug)]
pub(crate) struct View {
    _all: MultiProgress,
    pub(crate) published: ProgressBar,
    pub(crate) handled: ProgressBar,
    troubles: ProgressBar,
}

impl View {
    pub(crate) fn new(total: u64) -> Self {
        let all = MultiProgress::new();
        if !std::io::stderr().is_terminal() {
            let hidden = ProgressBar::hidden;
            return Self { _all: all, published: hidden(), handled: hidden(), troubles: hidden() };
        }
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}/s", thousands(state.per_sec().round() as u64));
        };
        let style = |template| ProgressStyle::with_template(template).expect("the template is a constant that parses");
        let bar = || {
            style("  {prefix:<10} {bar:40.green/dim} {human_pos:>9} of {human_len:<9} {rate:>10}")
                .with_key("rate", rate)
                .progress_chars("━━─")
        };
        let published = all.add(ProgressBar::new(total).with_style(bar()).with_prefix("published"));
        let handled = all.add(ProgressBar::new(total).with_style(bar()).with_prefix("handled"));
        let troubles =
            all.add(ProgressBar::new_spinner().with_style(style("  {prefix:<10} {msg}")).with_prefix("troubles"));
        Self { _all: all, published, handled, troubles }
    }

    pub(crate) fn show_troubles(&self, status: &SubscriptionStatus) {
        self.troubles.set_message(format!(
            "{} retried, {} dead-lettered; airports waiting for a retry: {}",
            thousands(status.counts.retried),
            thousands(status.counts.dead_lettered),
            thousands(status.parked as u64),
        ));
    }

    pub(crate) fn end(&self) {
        for bar in [&self.published, &self.handled, &self.troubles] {
            bar.finish_and_clear();
        }
    }
}

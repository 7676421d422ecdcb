//! One file per command; here is only the choice among them.

mod bench;
mod broker;
mod consume;
mod demo;
mod groups;
mod produce;
mod table;
mod topics;

use crate::args::{Cli, Command};
use crate::failure::Failure;

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Bench(args) => bench::run(args).await,
        Command::Broker(args) => broker::run(args).await,
        Command::Consume(args) => consume::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Groups(args) => groups::run(args).await,
        Command::Produce(args) => produce::run(args).await,
        Command::Topics(args) => topics::run(args).await,
    }
}

//! The command line: Flume's commands and options, and ours.
//!
//! Both binaries, `millrace` and `flume-ng`, come here. Exit codes: 0 after a clean end, 1 for a failure
//! while running or opening, 2 for a bad configuration or command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod arguments;
mod avro_client;
mod channel;
mod describe;
mod doctor;
mod flume_env;
mod load;
mod log;
mod origin;
mod reload;
mod report;
mod version;

/// Exit code for a failure while running or opening.
const FAILED: u8 = 1;
/// Exit code for a bad configuration or command line.
const BAD_CONFIG: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  millrace check -n a1 -f flow.properties            what is wrong with a flow, with line and correction
  millrace agent -n a1 -c conf -f flow.properties    run it until SIGTERM or Ctrl-C
  flume-ng agent --conf conf --name a1 --conf-file flow.properties -Dflume.root.logger=INFO,console
                                                     the same, as Flume's users type it
  millrace describe hdfs                             every property of a component, with default and meaning

-Dname=value sets a property as for Flume (flume.root.logger, flume.monitoring.type, ...); -X and other options of
the Java machine are accepted and have no effect.";

#[derive(Parser)]
#[command(
    name = "millrace",
    version,
    about = "A log collector that runs Apache Flume flows on io_uring, one shard per core",
    after_help = EXAMPLES,
    arg_required_else_help = true,
    infer_subcommands = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an agent until it is told to stop
    #[command(alias = "node", after_help = agent::HELP)]
    Agent(agent::AgentArgs),
    /// Say everything that is wrong with a flow, without starting it
    Check(load::FlowArgs),
    /// Look at file channels, verify and repair them
    #[command(subcommand, after_help = channel::HELP)]
    Channel(channel::ChannelCommand),
    /// Flume's tools
    #[command(subcommand)]
    Tool(channel::ToolCommand),
    /// List the components, or the properties of one
    Describe(describe::DescribeArgs),
    /// Send the lines of a file to the avro source of an agent
    #[command(name = "avro-client", after_help = avro_client::HELP)]
    AvroClient(avro_client::AvroClientArgs),
    /// Say what this machine allows: io_uring, limits, direct writes; and what to change
    Doctor(doctor::DoctorArgs),
    /// Print the version
    Version,
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let arguments = arguments::Arguments::split(std::env::args_os());
    let cli = match Cli::try_parse_from(&arguments.rest) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_CONFIG } else { 0 });
        }
    };
    match cli.command {
        Command::AvroClient(args) => avro_client::run(args),
        Command::Agent(args) => agent::run(args, arguments.properties),
        Command::Check(args) => load::check(&args, arguments.properties),
        Command::Channel(command) => channel::run(command),
        Command::Tool(command) => channel::tool(command),
        Command::Describe(args) => describe::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Version => version::run(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

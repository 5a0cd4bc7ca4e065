//! The commands and their arguments.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;

const EXIT: &str = "Exit codes:
  0  it was done
  1  it was tried and failed, such as a rollout that failed or was rolled back
  2  the command line or a document is wrong
  3  no host answers
  4  what is named is not there
  5  it can't be done now (something is under way, another host has the directory) or may not be (token)
130  Ctrl-C while a rollout was waited for, which goes on
`ews exec` exits with what the command exits with, or 128 and the number of the signal that ended it.";

/// The whole command line.
pub(super) fn command() -> Command {
    Command::new("ews")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Deploys, routes to, scales and watches services on this host")
        .after_help(EXIT)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            path("data", "DIR", "The directory of the host's state", ValueHint::DirPath)
                .env("EWS_DATA")
                .global(true),
        )
        .arg(Arg::new("api").long("api").value_name("ADDRESS").env("EWS_API").global(true).help(
            "Where the host's API is, in place of the socket in the directory: unix:PATH or http://ADDRESS",
        ))
        .arg(
            path("token-file", "FILE", "The file whose first line is the API's token", ValueHint::FilePath)
                .env("EWS_TOKEN_FILE")
                .global(true),
        )
        .arg(flag("json", "Writes JSON: an answer on one line, a stream as a line for each").global(true))
        .subcommands(of_the_host().into_iter().chain(of_services()).chain(of_rollouts()).map(with_examples))
}

/// What an operator types, by command.
const EXAMPLES: [(&str, &[&str]); 20] = [
    ("serve", &["ews serve --config /etc/ews/ews.toml --data /var/lib/ews", "ews serve &"]),
    ("check", &["ews check --config /etc/ews/ews.toml"]),
    ("completion", &["ews completion bash", "ews completion zsh", "ews completion fish"]),
    (
        "deploy",
        &[
            "ews deploy shop.toml --reason 'new prices'",
            "ews deploy shop.toml --detach --json",
            "ews deploy shop.toml --queue --key build-1842",
        ],
    ),
    ("plan", &["ews plan shop.toml"]),
    ("status", &["ews status", "ews status shop --json"]),
    ("logs", &["ews logs shop -f", "ews logs shop -n 20 --instance ews_3f2a"]),
    (
        "exec",
        &[
            "ews exec shop -- sh -c 'echo $PORT'",
            "ews exec shop -e LEVEL=debug -- bin/report",
            "ews exec shop --stdin -- sh -c 'cat > /tmp/prices'",
        ],
    ),
    ("scale", &["ews scale shop 5 --reason 'sale'"]),
    (
        "hotfix",
        &[
            "ews hotfix shop /srv/www/app.js=app.js",
            "ews hotfix shop /etc/app.conf=app.conf --reload signal:HUP",
        ],
    ),
    ("rm", &["ews rm shop"]),
    ("rollback", &["ews rollback shop", "ews rollback shop r3-8c1d2e"]),
    ("restart", &["ews restart shop"]),
    ("wait", &["ews wait shop", "ews wait shop 7"]),
    ("pause", &["ews pause shop"]),
    ("resume", &["ews resume shop"]),
    ("abort", &["ews abort shop"]),
    ("cancel", &["ews cancel shop"]),
    ("history", &["ews history shop"]),
    ("events", &["ews events -f", "ews events shop --json"]),
];

fn with_examples(command: Command) -> Command {
    match EXAMPLES.iter().find(|(name, _)| *name == command.get_name()) {
        Some((_, examples)) => {
            let lines: String = examples.iter().map(|line| format!("\n  {line}")).collect();
            command.after_help(format!("Examples:{lines}"))
        }
        None => command,
    }
}

fn of_the_host() -> Vec<Command> {
    let config = || path("config", "FILE", "The configuration", ValueHint::FilePath).short('c');
    vec![
        Command::new("serve")
            .about("Runs the host until SIGTERM; instances run on, and the next start takes them over")
            .arg(config()),
        Command::new("check")
            .about("Says what is wrong with a configuration, and exits")
            .arg(config().required(true)),
        Command::new("completion").about("Writes the completion of a shell").arg(
            Arg::new("shell").value_parser(value_parser!(Shell)).required(true).help("bash, zsh, fish, …"),
        ),
        Command::new("names").hide(true).about("The names of services, for the completion of a shell").arg(
            Arg::new("words")
                .value_name("WORD")
                .num_args(0..)
                .last(true)
                .help("The words that were typed so far"),
        ),
        Command::new("demo").hide(true).about("The service of the first five minutes"),
    ]
}

fn of_services() -> Vec<Command> {
    let document = || {
        Arg::new("file")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::FilePath)
            .required(true)
            .help("The service's document: .toml, .json or .yaml")
    };
    vec![
        Command::new("deploy")
            .about("Deploys a service and waits for how it ends")
            .arg(document())
            .arg(detach())
            .arg(reason())
            .arg(
                flag("supersede", "Ends a rollout that is under way, and goes on from where it stood")
                    .conflicts_with("queue"),
            )
            .arg(flag("queue", "Waits until a rollout that is under way has ended"))
            .arg(
                Arg::new("key")
                    .long("key")
                    .value_name("KEY")
                    .help("Does nothing where the same key was deployed before"),
            ),
        Command::new("plan").about("Says what a deployment would do").arg(document()),
        Command::new("status")
            .about("How the host and its services stand, or one of them")
            .arg(named().required(false)),
        Command::new("logs")
            .about("What the instances of a service wrote")
            .arg(named())
            .arg(flag("follow", "Goes on with what they write").short('f'))
            .arg(
                Arg::new("tail")
                    .long("tail")
                    .short('n')
                    .value_name("LINES")
                    .default_value("100")
                    .value_parser(value_parser!(u32).range(0..=10_000))
                    .help("As many of the last lines"),
            )
            .arg(instance()),
        Command::new("exec")
            .about("Runs a command in an instance, and exits with what it exits with")
            .arg(named())
            .arg(flag("stdin", "Hands on the standard input").short('s'))
            .arg(instance())
            .arg(
                Arg::new("env")
                    .long("env")
                    .short('e')
                    .value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .help("Added to the environment"),
            )
            .arg(
                Arg::new("command")
                    .value_name("COMMAND")
                    .num_args(1..)
                    .last(true)
                    .required(true)
                    .help("After `--`: the program and its arguments, without a shell"),
            ),
        Command::new("scale")
            .about("Sets how many instances a service has, and waits until it has them")
            .arg(named())
            .arg(
                Arg::new("replicas")
                    .value_name("N")
                    .required(true)
                    .value_parser(value_parser!(u32).range(0..=50_000))
                    .help("How many"),
            )
            .arg(detach())
            .arg(reason()),
        Command::new("hotfix")
            .about("Replaces files in the running instances of a service, batch by batch")
            .arg(named())
            .arg(
                Arg::new("files")
                    .value_name("PATH=FILE")
                    .num_args(1..=100)
                    .required(true)
                    .value_parser(NonEmptyStringValueParser::new())
                    .help("The path in the instance, and the file that holds what it shall hold"),
            )
            .arg(
                Arg::new("reload")
                    .long("reload")
                    .value_name("HOW")
                    .default_value("none")
                    .help("How the program is told: none, restart, signal:HUP, exec:[\"word\",…]"),
            )
            .arg(
                Arg::new("strategy")
                    .long("strategy")
                    .value_name("JSON")
                    .help("How to proceed, as a table of a strategy in JSON"),
            )
            .arg(detach())
            .arg(reason()),
        Command::new("rm")
            .about("Removes a service with its instances, its traffic and its records")
            .arg(named())
            .arg(detach()),
    ]
}

fn of_rollouts() -> Vec<Command> {
    let steer = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(named());
    vec![
        Command::new("rollback")
            .about("Goes back to an earlier revision, and waits for how it ends")
            .arg(named())
            .arg(
                Arg::new("revision")
                    .value_name("REVISION")
                    .help("Where to; the stable one before where it is left out"),
            )
            .arg(detach()),
        Command::new("restart")
            .about("Makes every instance of a service anew, batch by batch")
            .arg(named())
            .arg(
                Arg::new("strategy")
                    .long("strategy")
                    .value_name("JSON")
                    .help("How to proceed, as a table of a strategy in JSON"),
            )
            .arg(detach()),
        Command::new("wait")
            .about("Waits for how a rollout ends that was asked for before, and exits as `deploy` does")
            .arg(named())
            .arg(
                Arg::new("rollout")
                    .value_name("ROLLOUT")
                    .value_parser(value_parser!(u64))
                    .help("Its number; the last that was asked for where it is left out"),
            ),
        steer("pause", "Begins nothing more of the rollout under way"),
        steer("resume", "Lets a paused rollout go on, or approves its next step"),
        steer("abort", "Turns the rollout under way round: everything goes back"),
        steer("cancel", "Ends the rollout under way where it stands"),
        Command::new("history").about("The rollouts of a service, and who asked for what").arg(named()),
        Command::new("events")
            .about("What happened since the host was started")
            .arg(named().required(false))
            .arg(flag("follow", "Goes on with what happens").short('f')),
    ]
}

fn named() -> Arg {
    Arg::new("service").value_name("SERVICE").required(true).help("The service's name")
}

fn instance() -> Arg {
    Arg::new("instance")
        .long("instance")
        .short('i')
        .value_name("INSTANCE")
        .help("Only this instance, as `status` names it")
}

fn detach() -> Arg {
    flag("detach", "Returns once it is written down; the host brings it about").short('d')
}

fn reason() -> Arg {
    Arg::new("reason").long("reason").value_name("TEXT").help("Why, for the history")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn path(name: &'static str, value: &'static str, help: &'static str, hint: ValueHint) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .value_parser(value_parser!(PathBuf))
        .value_hint(hint)
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_whole() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_every_example_is_a_command() {
        for shown in command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let examples = EXAMPLES.iter().find(|(name, _)| *name == shown.get_name());
            let (_, examples) =
                examples.unwrap_or_else(|| unreachable!("no example of `{}`", shown.get_name()));
            let help = shown.clone().render_long_help().to_string();
            for example in *examples {
                assert!(help.contains(example), "{help}");
                // Words as a shell takes them, as far as these lines need it.
                let mut words: Vec<String> = Vec::new();
                for (index, part) in example.split('\'').enumerate() {
                    if index % 2 == 1 {
                        words.push(part.to_owned());
                    } else {
                        words.extend(part.split_whitespace().filter(|word| *word != "&").map(str::to_owned));
                    }
                }
                let read = command().try_get_matches_from(&words);
                assert_eq!(read.unwrap().subcommand_name(), Some(shown.get_name()), "{example}");
            }
        }
    }
}

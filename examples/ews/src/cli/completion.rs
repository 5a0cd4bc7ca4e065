//! The completion of a shell: commands and flags as they are declared, and the names of services as the host knows them.
//!
//! What a shell's script asks for names is `ews names -- <the words typed so far>`, so that a host which is named on the line is the one
//! that is asked. It says nothing where nobody answers soon.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Command};
use clap_complete::Shell;
use tokio::time::timeout;

use super::out::Out;
use super::{Failure, arguments, data};
use crate::api::wire::ServiceView;
use crate::client::Client;

/// How long somebody who has pressed a key waits for names.
const PATIENCE: Duration = Duration::from_secs(2);

/// The script of a shell.
pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "ews", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let commands = takers();
    match shell {
        Shell::Bash => format!("{script}{}", BASH.replace("COMMANDS", &commands.join("|"))),
        Shell::Zsh => zsh(&script),
        Shell::Fish => {
            let lines = commands.iter().map(|command| FISH.replace("COMMAND", command));
            format!("{script}{}", lines.collect::<String>())
        }
        _ => script,
    }
}

/// The commands whose first argument is a service.
fn takers() -> Vec<String> {
    let takes = |command: &&Command| command.get_positionals().any(|argument| argument.get_id() == "service");
    let names = |command: &Command| command.get_name().to_owned();
    arguments::command().get_subcommands().filter(takes).map(names).collect()
}

/// Beside what the generated function offers, where no flag is begun and no name stands there yet.
const BASH: &str = r#"
_ews_with_names() {
    _ews "$@"
    local word taker='' skip=''
    [[ "${COMP_WORDS[COMP_CWORD]}" == -* ]] && return 0
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ -n "$skip" ]]; then skip=''; continue; fi
        case "$word" in
            --data|--api|--token-file) skip=1 ;;
            -*) ;;
            COMMANDS) [[ -n "$taker" ]] && return 0; taker="$word" ;;
            *) return 0 ;;
        esac
    done
    [[ -n "$skip" || -z "$taker" ]] && return 0
    local names
    names="$(command ews names -- "${COMP_WORDS[@]}" 2>/dev/null)"
    COMPREPLY+=($(compgen -W "$names" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _ews_with_names -o bashdefault -o default ews
"#;

const FISH: &str = "complete -c ews -n \"__fish_seen_subcommand_from COMMAND\" -f -a \"(command ews names -- (commandline -opc) 2>/dev/null)\"\n";

/// In place of files, where a service is wanted.
fn zsh(script: &str) -> String {
    const NAMES: &str = "(( $+functions[_ews_services] )) ||\n_ews_services() {\n    local -a names\n    \
                         names=(${(f)\"$(command ews names -- ${words} 2>/dev/null)\"})\n    compadd -a names\n}\n\n";
    let lines = script.split_inclusive('\n').map(|line| {
        let begin = line.trim_start();
        let is_service = begin.starts_with("':service --") || begin.starts_with("'::service --");
        if is_service { line.replace(":_default'", ":_ews_services'") } else { line.to_owned() }
    });
    let script: String = lines.collect();
    // The last lines call the function of the whole; what it calls stands before them.
    match script.find("if [ \"$funcstack[1]\" = \"_ews\" ]") {
        Some(at) => {
            let (before, after) = script.split_at_checked(at).unwrap_or((&script, ""));
            format!("{before}{NAMES}{after}")
        }
        None => format!("{script}{NAMES}"),
    }
}

/// The services of the host that the typed words name, one a line.
pub(super) async fn names(matches: &ArgMatches) -> Result<u8, Failure> {
    let words: Vec<&String> = matches.get_many::<String>("words").into_iter().flatten().collect();
    let named = |flag: &str| {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.strip_prefix(flag) {
                Some("") => return words.next().map(|word| (*word).clone()),
                Some(value) if value.starts_with('=') => return value.get(1..).map(str::to_owned),
                _ => {}
            }
        }
        None
    };
    let token = named("--token-file").map(PathBuf::from).or_else(|| matches.get_one("token-file").cloned());
    let client = match named("--api").or_else(|| matches.get_one::<String>("api").cloned()) {
        Some(api) => Client::at(&api, token.as_deref())?,
        None => {
            let data = named("--data").map(PathBuf::from).or_else(|| matches.get_one("data").cloned());
            Client::of_data(&data.unwrap_or_else(data::default_path))
        }
    };
    let services = timeout(PATIENCE, client.get::<Vec<ServiceView>>("/v1/services")).await;
    let services =
        services.unwrap_or_else(|_| Err(Failure::unreachable("the host takes too long".to_owned())))?;
    for view in services {
        Out::new(false).line(view.service.as_str());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_takes_a_service_offers_names_in_every_shell() {
        let takers = takers();
        assert!(takers.len() >= 14 && takers.iter().any(|name| name == "logs"), "{takers:?}");
        let zsh = script(Shell::Zsh);
        assert_eq!(zsh.matches(":_ews_services'").count(), takers.len(), "{zsh}");
        let fish = script(Shell::Fish);
        for name in &takers {
            assert!(fish.contains(&format!("__fish_seen_subcommand_from {name}\" -f")), "{name}");
        }
        assert!(script(Shell::Bash).contains(&takers.join("|")));
    }
}

//! The command line: what an operator types, and what it exits with.

mod act;
mod arguments;
mod completion;
mod deploy;
mod failure;
mod follow;
mod out;
mod serve;
mod show;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;
use clap_complete::Shell;

pub(crate) use failure::Failure;

use crate::client::Client;
use crate::{data, demo};
use out::Out;

/// Runs the program with these arguments, the first of which is its own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = match arguments::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return refused(&error, &arguments),
    };
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(failure::USAGE) };
    let is_served = matches!(name, "serve" | "demo");
    let built = if is_served {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            Out::new(false).error(&Failure::odd(format!("the runtime could not be made: {error}")));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(Box::pin(dispatched(name, matches)));
    // What is left to do in the background is nobody's who asked for an end.
    runtime.shutdown_background();
    code
}

/// What is wrong with a command line, in the form that it asks for as far as it can be read; or the text that was asked for.
fn refused(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let asks_for_json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if asks_for_json {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        Out::new(true).error(&Failure::usage(message));
    } else {
        let _ = error.print();
    }
    ExitCode::from(failure::USAGE)
}

async fn dispatched(name: &str, matches: &ArgMatches) -> ExitCode {
    if name == "demo" {
        return demo::serve().await;
    }
    match Box::pin(dispatch(name, matches)).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            Out::new(matches.get_flag("json")).error(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// Does what is asked for, and gives the exit code.
async fn dispatch(name: &str, matches: &ArgMatches) -> Result<u8, Failure> {
    let out = Out::new(matches.get_flag("json"));
    match name {
        "serve" => return Box::pin(serve::serve(matches)).await,
        "check" => return serve::check(matches),
        "completion" => {
            let shell: Shell =
                matches.get_one("shell").copied().ok_or_else(|| Failure::usage("no shell".to_owned()))?;
            out.raw(completion::script(shell).as_bytes());
            return Ok(0);
        }
        "names" => return completion::names(matches).await,
        _ => {}
    }
    let client = client(matches)?;
    let call = Call { client, out };
    match name {
        "deploy" => deploy::deploy(&call, matches).await,
        "wait" => deploy::wait(&call, matches).await,
        "plan" => deploy::plan(&call, matches).await,
        "status" => show::status(&call, matches).await,
        "history" => show::history(&call, matches).await,
        "logs" => follow::logs(&call, matches).await,
        "events" => follow::events(&call, matches).await,
        "exec" => follow::exec(&call, matches).await,
        "scale" => act::scale(&call, matches).await,
        "rollback" => act::rollback(&call, matches).await,
        "restart" => act::restart(&call, matches).await,
        "hotfix" => act::hotfix(&call, matches).await,
        "pause" | "resume" | "abort" | "cancel" => act::steer(&call, name, matches).await,
        "rm" => act::remove(&call, matches).await,
        other => Err(Failure::usage(format!("`{other}` is no command"))),
    }
}

/// What every command has: whom it asks, and where it writes.
struct Call {
    client: Client,
    out: Out,
}

fn client(matches: &ArgMatches) -> Result<Client, Failure> {
    match matches.get_one::<String>("api") {
        Some(api) => Client::at(api, matches.get_one::<PathBuf>("token-file").map(PathBuf::as_path)),
        None => Ok(Client::of_data(
            &matches.get_one::<PathBuf>("data").cloned().unwrap_or_else(data::default_path),
        )),
    }
}

/// The service that is named, checked before anybody is asked.
fn service(matches: &ArgMatches) -> Result<String, Failure> {
    let name = text(matches, "service");
    let checked = ews_core::ServiceName::new(&name).map_err(|error| Failure::of(&error))?;
    Ok(checked.to_string())
}

/// An argument that is a text; empty where it is left out.
fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

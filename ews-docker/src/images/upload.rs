//! Calls with a body that flows: contexts and archives.
//!
//! An engine may answer only once it has read all of a body, which takes as long as it takes. So what is bounded is the silence: the wait
//! ends when neither a piece of the body went out nor an answer came in for `idle_limit`. Where the body itself fails, its own error comes out,
//! not the broken connection that follows from it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::lines::Lines;
use crate::client::{Call, Engine, flowing};

/// Longer than any upload; what bounds it is its silence.
const NEVER: Duration = Duration::from_secs(7 * 24 * 3600);

struct Upload {
    moved: Mutex<Instant>,
    failed: Mutex<Option<Error>>,
}

impl Upload {
    fn moved(&self) -> Instant {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Sends a body and gives the lines of the answer.
pub(super) async fn upload(engine: &Engine, call: Call, body: ByteStream, idle: Duration) -> Result<Lines> {
    let upload = Arc::new(Upload { moved: Mutex::new(Instant::now()), failed: Mutex::new(None) });
    let watched = upload.clone();
    let body = body.map(move |piece| {
        *watched.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        piece.map_err(|error| {
            let shown = Error::new(error.kind(), "the body of the request failed");
            *watched.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            shown
        })
    });
    let call = call.body("application/x-tar", flowing(body.boxed())).within(NEVER);
    let mut flow = Box::pin(engine.flow(call, Some(idle)));
    loop {
        let ends = upload.moved() + idle;
        tokio::select! {
            answer = &mut flow => {
                let failed = upload.failed();
                return match answer {
                    Ok((_, pieces)) if failed.is_none() => Ok(Lines::new(pieces)),
                    Ok(_) => Err(failed.unwrap_or_else(|| Error::internal("an error was lost"))),
                    Err(error) => Err(failed.unwrap_or(error)),
                };
            }
            () = tokio::time::sleep_until(ends) => {
                if upload.moved() + idle <= Instant::now() {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("neither the body of the request nor the engine's answer moved for {idle:?}"),
                    )
                    .with_maybe_applied());
                }
            }
        }
    }
}

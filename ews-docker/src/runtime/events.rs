//! What happens to our containers, told by the engine's one stream of events.
//!
//! One task reads the stream for all who listen, and only where somebody does. Events are hints: what an engine's event lacks (which start it
//! is about) is asked for, and where the answer is already about a later start, a gap is told instead of a guess. After a break the stream
//! is made anew, and everybody gets a gap.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ews_core::bus::{Bus, Subscription};
use ews_core::event::{EventStream, Gap, Notice, RuntimeEvent};
use ews_core::instance::{ExitStatus, Incarnation, InstanceState};
use ews_core::node::NodeState;
use ews_core::runtime::ByteStream;
use ews_core::{Clock as _, Error, ErrorKind, Result, Selector, SystemClock, Timestamp};
use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;

use super::list::Outline;
use super::observe::{self, Place};
use super::{Inner, labels};
use crate::client::models::{EventAnswer, Inspected};
use crate::client::{Call, Engine, Subject};

/// How many events are kept for a listener that is slow.
const KEPT: usize = 4096;
/// The longest event that is read.
const MAX_EVENT: usize = 1024 * 1024;
/// How long to wait before the stream is made anew: from, up to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The most containers whose present start is remembered; what is forgotten is asked for.
const MAX_KNOWN: usize = 100_000;

/// What is told, with what a selector looks at.
#[derive(Clone)]
struct Told {
    notice: Notice<RuntimeEvent>,
    about: Option<Arc<Outline>>,
}

/// Tells everybody who listens.
pub(super) struct Hub {
    bus: Bus<Told>,
    /// The task ends when this is dropped.
    _life: oneshot::Sender<()>,
}

/// Reads what is told.
pub(super) struct Hints(Subscription<Told>);

impl Hints {
    /// What comes next, whoever it is about; `None` where the runtime is gone.
    pub(super) async fn next(&mut self) -> Option<Notice<RuntimeEvent>> {
        Some(match self.0.next().await? {
            Notice::Event(told) => told.event.notice,
            Notice::Gap(gap) => Notice::Gap(gap),
        })
    }
}

impl Hub {
    pub(super) fn subscribe(&self) -> Hints {
        Hints(self.bus.subscribe())
    }
}

impl Inner {
    /// The one who tells; begins to listen at the first question.
    pub(super) async fn hub(&self) -> Result<&Hub> {
        let begin = async || {
            let bytes = open(&self.engine).await?;
            let bus = Bus::new(KEPT)?;
            let (life, end) = oneshot::channel();
            let listener = Listener {
                engine: self.engine.clone(),
                place: self.place.clone(),
                bus: bus.clone(),
                known: HashMap::new(),
            };
            tokio::spawn(async move {
                tokio::select! {
                    _ = end => {}
                    () = listener.run(bytes) => {}
                }
            });
            Ok(Hub { bus, _life: life })
        };
        self.hub.get_or_try_init(begin).await
    }

    pub(super) async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let subscription = self.hub().await?.bus.subscribe();
        let selector = selector.clone();
        let told = stream::unfold(subscription, move |mut subscription| {
            let selector = selector.clone();
            async move {
                loop {
                    let notice = match subscription.next().await? {
                        Notice::Gap(gap) => Notice::Gap(gap),
                        Notice::Event(told) => match told.event.about {
                            Some(about) if !selector.matches(&*about) => continue,
                            _ => told.event.notice,
                        },
                    };
                    return Some((notice, subscription));
                }
            }
        });
        Ok(told.boxed())
    }
}

async fn open(engine: &Engine) -> Result<ByteStream> {
    // Without the execs: a health check alone makes three events each time.
    let filters = serde_json::json!({
        "type": ["container"],
        "label": [labels::OWNER],
        "event": ["create", "start", "die", "destroy", "pause", "unpause", "oom", "health_status", "init", "cleanup", "remove"],
    });
    let call =
        Call::get("runtime.events", Subject::Engine, &["events"]).query("filters", &filters.to_string());
    engine.flow(call, None).await.map(|(_, bytes)| bytes)
}

struct Listener {
    engine: Engine,
    place: Place,
    bus: Bus<Told>,
    /// The present start of each container, and whether the kernel has killed in it for memory.
    known: HashMap<String, (Incarnation, bool)>,
}

impl Listener {
    async fn run(mut self, first: ByteStream) {
        let mut bytes = first;
        loop {
            let end = self.listen(bytes).await;
            tracing::debug!(error = ?end.err(), "the engine's events ended; they are asked for again");
            let since = SystemClock.now();
            self.tell_all(Notice::Event(self.node(NodeState::Unknown { since })));
            self.known.clear();
            let mut pause = PAUSE.0;
            bytes = loop {
                tokio::time::sleep(pause).await;
                match open(&self.engine).await {
                    Ok(bytes) => break bytes,
                    Err(error) => tracing::debug!(%error, "the engine's events can't be had"),
                }
                pause = (pause * 2).min(PAUSE.1);
            };
            self.tell_all(Notice::Gap(Gap::Reconnected));
            self.tell_all(Notice::Event(self.node(NodeState::Ready)));
        }
    }

    fn node(&self, state: NodeState) -> RuntimeEvent {
        RuntimeEvent::Node { node: self.place.node.clone(), state, at: SystemClock.now() }
    }

    fn tell_all(&self, notice: Notice<RuntimeEvent>) {
        self.bus.publish(Told { notice, about: None });
    }

    fn tell(&self, about: &Arc<Outline>, event: RuntimeEvent) {
        self.bus.publish(Told { notice: Notice::Event(event), about: Some(Arc::clone(about)) });
    }

    async fn listen(&mut self, mut bytes: ByteStream) -> Result<()> {
        let mut line = BytesMut::new();
        while let Some(piece) = bytes.next().await {
            line.extend_from_slice(&piece?);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let event = line.split_to(end + 1);
                match serde_json::from_slice::<EventAnswer>(&event) {
                    Ok(event) => self.take(event).await,
                    // One that can't be read may have been about anything.
                    Err(error) => {
                        tracing::debug!(%error, "an event of the engine can't be read");
                        self.tell_all(Notice::Gap(Gap::EngineLost));
                    }
                }
            }
            if line.len() > MAX_EVENT {
                return Err(Error::new(ErrorKind::Decode, "an event of the engine is longer than 1 MiB"));
            }
        }
        Ok(())
    }

    async fn take(&mut self, event: EventAnswer) {
        let attributes = &event.actor.attributes;
        let Some(about) = Outline::of(attributes, &self.place.node).map(Arc::new) else { return };
        if attributes.get("name").is_none_or(|name| name.trim_start_matches('/') != about.id.as_str()) {
            return;
        }
        let container = event.actor.id.as_str();
        let at = Timestamp::from_micros(u64::try_from(event.nanos / 1_000).unwrap_or_default());
        let instance = |incarnation, state| RuntimeEvent::Instance {
            id: about.id.clone(),
            key: about.key.clone(),
            incarnation,
            state,
            at,
        };
        match event.action.split(':').next().unwrap_or_default().trim() {
            "create" => self.tell(&about, instance(Incarnation(0), InstanceState::Created)),
            "start" => match self.start_of(container, at).await {
                Some(incarnation) => {
                    if self.known.len() >= MAX_KNOWN {
                        self.known.clear();
                    }
                    self.known.insert(container.to_owned(), (incarnation, false));
                    self.tell(&about, instance(incarnation, InstanceState::Running));
                }
                None => self.tell_all(Notice::Gap(Gap::EngineLost)),
            },
            "oom" => {
                if let Some((_, for_memory)) = self.known.get_mut(container) {
                    *for_memory = true;
                }
            }
            "die" | "died" => {
                let known = match self.known.get(container) {
                    Some(known) => Some(*known),
                    None => self.start_of(container, at).await.map(|incarnation| (incarnation, false)),
                };
                let code = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"));
                let code = code.and_then(|code| code.parse::<i64>().ok()).map(observe::code);
                match known {
                    // One that never came to run has no start that could have ended.
                    Some((Incarnation(0), _)) => {}
                    Some((incarnation, for_memory)) => {
                        let mut status = ExitStatus::unknown(at);
                        (status.code, status.oom_killed) = (code, for_memory);
                        self.tell(&about, instance(incarnation, InstanceState::Exited(status)));
                    }
                    None => self.tell_all(Notice::Gap(Gap::EngineLost)),
                }
            }
            action @ ("pause" | "unpause" | "health_status") => {
                let known = match self.known.get(container) {
                    Some((incarnation, _)) => Some(*incarnation),
                    None => self.start_of(container, at).await,
                };
                let Some(incarnation) = known else { return self.tell_all(Notice::Gap(Gap::EngineLost)) };
                match action {
                    "pause" => self.tell(&about, instance(incarnation, InstanceState::Paused)),
                    "unpause" => self.tell(&about, instance(incarnation, InstanceState::Running)),
                    _ => {
                        let said = event.action.split_once(':').map_or("", |(_, said)| said.trim());
                        let health = observe::health_of(said);
                        self.tell(
                            &about,
                            RuntimeEvent::Health { id: about.id.clone(), incarnation, health, at },
                        );
                    }
                }
            }
            "destroy" | "remove" => {
                self.known.remove(container);
                self.tell(&about, RuntimeEvent::Removed { id: about.id.clone(), key: about.key.clone(), at });
            }
            _ => {}
        }
    }

    /// Which start a container was in at this moment; `None` where that can't be known any more.
    async fn start_of(&self, container: &str, at: Timestamp) -> Option<Incarnation> {
        let call = Call::get("runtime.events", Subject::Container, &["containers", container, "json"]);
        let found: Inspected = self.engine.json(call).await.ok()?;
        let incarnation = observe::incarnation(&found.state);
        // The engine notes a start before it tells of it.
        (incarnation.0 <= at.as_micros()).then_some(incarnation)
    }
}

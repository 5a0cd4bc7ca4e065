//! What spans and events say, and what they never say.

use super::*;

/// Writes down every span, record and event as text.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<String>>>);

impl Captured {
    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Captured {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut fields = Fields(format!("span {} {}", span.metadata().level(), span.metadata().name()));
        span.record(&mut fields);
        self.push(fields.0);
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut fields = Fields("record".into());
        values.record(&mut fields);
        self.push(fields.0);
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(format!("event {}", event.metadata().level()));
        event.record(&mut fields);
        self.push(fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_call_is_one_span_with_its_subject_and_its_outcome() {
    let captured = Captured::default();
    let _guard = tracing::subscriber::set_default(captured.clone());
    let runtime = layered(&Stub::willing(CapabilitySet::all()), Trace);
    runtime.create(&spec(), &key(), &CreateOptions::on(NodeId::new("n7").unwrap())).await.unwrap();
    let text = captured.text();
    assert!(
        text.starts_with("span INFO ews.call contract=\"runtime\" operation=\"runtime.create\""),
        "{text}"
    );
    for field in
        ["service=web", "revision=r1", "node=n7", "object=web/r1/0.0", "outcome=\"ok\"", "duration_us="]
    {
        assert!(text.contains(field), "{field}: {text}");
    }
    assert_eq!(text.matches("span ").count(), 1);
}

#[tokio::test]
async fn failures_are_told_at_the_level_they_deserve_and_so_is_a_dropped_call() {
    for (kind, level) in
        [(ErrorKind::Internal, "ERROR"), (ErrorKind::Unavailable, "WARN"), (ErrorKind::NotFound, "DEBUG")]
    {
        let captured = Captured::default();
        let _guard = tracing::subscriber::set_default(captured.clone());
        let stub = Stub::failing(move || Error::new(kind, "words"));
        layered(&stub, Trace).get(&id()).await.unwrap_err();
        let text = captured.text();
        assert!(text.contains(&format!("event {level} ")), "{text}");
        assert!(text.contains(&format!("outcome=\"{kind}\"")), "{text}");
        assert!(text.starts_with("span DEBUG"), "a read: {text}");
    }
    let captured = Captured::default();
    let _guard = tracing::subscriber::set_default(captured.clone());
    let runtime = layered(&Stub::hanging(), Trace);
    assert!(runtime.get(&id()).now_or_never().is_none());
    assert!(captured.text().contains("outcome=\"abandoned\""), "{}", captured.text());
}

/// What goes through every layer holds the word in every place where a careless layer would print it.
#[tokio::test(start_paused = true)]
async fn no_secret_reaches_a_span_or_an_event() {
    const SECRET: &str = "hunter2";

    struct Vault;
    #[async_trait]
    impl Secrets for Vault {
        async fn resolve(&self, _: &SecretRef) -> Result<SecretValue> {
            SecretValue::new(SECRET)
        }
    }

    let captured = Captured::default();
    let _guard = tracing::subscriber::set_default(captured.clone());
    let stub = Stub::failing(|| {
        unavailable()
            .with_detail(format!("the engine repeats: PASSWORD={SECRET}"))
            .with_source(std::io::Error::other(format!("body was {SECRET}")))
    });
    let runtime = stack(Arc::clone(&stub) as Arc<dyn Runtime>);
    let mut spec = spec();
    spec.env.insert("PASSWORD".into(), EnvValue::Plain(SECRET.into()));
    runtime.create(&spec, &key(), &CreateOptions::default()).await.unwrap_err();
    runtime.exec(&id(), &ExecSpec::new(["login", SECRET])).await.unwrap_err();
    let vault = stack(Arc::new(Vault) as Arc<dyn Secrets>);
    let reference: SecretRef = "env:PASSWORD".parse().unwrap();
    assert_eq!(vault.resolve(&reference).await.unwrap().expose(), SECRET.as_bytes());

    let text = captured.text();
    assert!(text.contains("secrets.resolve") && text.contains("object=env:PASSWORD"), "{text}");
    assert!(text.contains("will try again"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
}

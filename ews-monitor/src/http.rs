//! The exposition as a router for the embedding service; it listens nowhere.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use ews_core::Result;
use ews_core::http::{Access, ControlConfig, control};

use crate::live::LiveStore;
use crate::prometheus;

/// `GET /metrics`, with what every control endpoint has around it. [`Access::Open`] is for loopback only.
///
/// ```
/// use ews_core::http::{Access, ControlConfig};
/// use ews_monitor::{LiveConfig, LiveStore, http};
///
/// let store = LiveStore::new(LiveConfig::default())?;
/// let router = http::router(&store, Access::Open, ControlConfig::default())?;
/// # let _: axum::Router = router;
/// # Ok::<(), ews_core::Error>(())
/// ```
///
/// # Errors
/// Those of [`control`].
pub fn router(store: &LiveStore, access: Access, config: ControlConfig) -> Result<Router> {
    let store = store.clone();
    let metrics = move || {
        let text = prometheus::text(&store);
        async move { ([(CONTENT_TYPE, prometheus::MEDIA_TYPE)], text) }
    };
    control(Router::new().route("/metrics", get(metrics)), access, config)
}

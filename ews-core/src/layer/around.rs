//! The one trait that every layer is, and the one wrapper that puts it in front of a driver.

use std::future::Future;
use std::sync::Arc;

use crate::error::Result;
use crate::layer::Call;

/// One idea that holds for calls to any driver. See the [module](crate::layer) for an example.
pub trait Around: Send + Sync + 'static {
    /// Makes the call, or refuses it, or makes it several times.
    ///
    /// Each call of `operation` asks the driver once. It may be asked again only after the future before has ended or was
    /// dropped, and only where [`Call::kind`] allows a repetition: an operation whose argument is a stream fails with
    /// `Internal` when it is asked twice. The returned future must be cancel-safe: dropped at any point, it leaves no
    /// permit taken and no state behind.
    fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send;
}

/// Two ideas as one: the first stands outside of the second.
///
/// It is what lets a whole stack stand behind one [`Layered`], with one allocation for each call instead of one for each
/// layer.
#[derive(Debug, Clone, Default)]
pub struct Both<A, B> {
    outer: A,
    inner: B,
}

impl<A, B> Both<A, B> {
    /// `outer` around `inner`.
    pub const fn new(outer: A, inner: B) -> Self {
        Self { outer, inner }
    }
}

impl<A: Around, B: Around> Around for Both<A, B> {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        self.outer.around(call, || self.inner.around(call, &operation)).await
    }
}

/// A driver with a layer in front. It implements whichever contract the driver does.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::Runtime;
/// use ews_core::layer::{Deadline, Layered};
///
/// fn bounded(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
///     Arc::new(Layered::new(runtime, Deadline::default()))
/// }
/// ```
pub struct Layered<C: ?Sized, A> {
    pub(crate) inner: Arc<C>,
    pub(crate) around: Arc<A>,
}

impl<C: ?Sized, A: Around> Layered<C, A> {
    /// Puts a layer in front of a driver.
    pub fn new(inner: Arc<C>, around: A) -> Self {
        Self::sharing(inner, Arc::new(around))
    }

    /// Puts a layer in front of a driver that stands in front of others too: one limit for all of them, say.
    pub fn sharing(inner: Arc<C>, around: Arc<A>) -> Self {
        Self { inner, around }
    }

    /// The driver behind.
    pub fn inner(&self) -> &Arc<C> {
        &self.inner
    }
}

impl<C: ?Sized, A> Clone for Layered<C, A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), around: Arc::clone(&self.around) }
    }
}

impl<C: ?Sized, A> std::fmt::Debug for Layered<C, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}

/// An argument that can be given to a driver only once: a stream.
pub(crate) struct Given<T>(std::sync::Mutex<Option<T>>);

impl<T> Given<T> {
    pub(crate) fn new(argument: T) -> Self {
        Self(std::sync::Mutex::new(Some(argument)))
    }

    /// The argument, the first time.
    pub(crate) fn take(&self) -> Result<T> {
        let mut slot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.take().ok_or_else(|| {
            crate::Error::internal("a layer repeated a call whose stream was used up by the first try")
        })
    }
}

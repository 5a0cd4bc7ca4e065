//! Typed records: a record's value as JSON with the name and version of its schema.
//!
//! A controller that is updated finds the records of its predecessor, and in a rolling update those of its successor too.
//! [`Schema::migrate`] lifts older values; a newer one is refused, since a rewrite by an older program would lose what it
//! does not know.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Expect, Key, ListRequest, Record, Store, StoreRevision, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Shown;

/// The schema of a typed record.
///
/// ```
/// use ews_core::store::{Expect, Key, MemoryStore, Schema, TypedExt};
/// use serde::{Deserialize, Serialize};
/// use serde_json::Value;
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Rollout {
///     steps: u32,
/// }
///
/// impl Schema for Rollout {
///     const NAME: &'static str = "rollout";
///     const VERSION: u32 = 2;
///     // Version 1 called it `count`.
///     fn migrate(_from: u32, mut value: Value) -> ews_core::Result<Value> {
///         let count = value["count"].take();
///         Ok(serde_json::json!({ "steps": count }))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ews_core::Result<()> {
/// let store = MemoryStore::new();
/// let key = Key::new("service/web/rollout")?;
/// store.put_typed(&key, &Rollout { steps: 3 }, Expect::Absent).await?;
/// let found = store.get_typed::<Rollout>(&key).await?;
/// assert_eq!(found.map(|typed| typed.value), Some(Rollout { steps: 3 }));
/// # Ok(())
/// # }
/// ```
pub trait Schema: Serialize + DeserializeOwned + Send + Sync {
    /// What the records are called, such as `rollout`; it never changes.
    const NAME: &'static str;

    /// The version that this program writes; raised by whoever changes the shape in a way that an older program would not
    /// understand or would lose.
    const VERSION: u32;

    /// Lifts a value of the older version `from` to [`Self::VERSION`].
    ///
    /// # Errors
    /// What can't be lifted. Unless overridden, no older version is understood.
    fn migrate(from: u32, value: Value) -> Result<Value> {
        let _ = value;
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("version {from} of `{}` can't be migrated to version {}", Self::NAME, Self::VERSION),
        ))
    }
}

/// A typed record as found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Typed<T> {
    /// What it says.
    pub value: T,
    /// The version it was written in; less than [`Schema::VERSION`] where it was migrated on the way.
    pub version: u32,
    /// The record itself.
    pub record: Record,
}

#[derive(Serialize)]
struct Written<'a, T> {
    schema: &'static str,
    version: u32,
    value: &'a T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    schema: String,
    version: u32,
    value: Value,
}

/// The bytes of a typed value, for a [`Transaction`].
///
/// # Errors
/// [`ErrorKind::Invalid`] for a value that JSON can't hold.
pub fn encode_typed<T: Schema>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(&Written { schema: T::NAME, version: T::VERSION, value }).map_err(|error| {
        Error::invalid(format!("this value of `{}` can't be written as JSON", T::NAME)).with_source(error)
    })
}

/// Reads a typed record.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for what is not such a record, for a newer version than this program's, and for an older one that
/// can't be migrated.
pub fn decode_typed<T: Schema>(record: Record) -> Result<Typed<T>> {
    match decode::<T>(&record) {
        Ok((value, version)) => Ok(Typed { value, version, record }),
        Err(error) => Err(error.with_context("key", &record.key)),
    }
}

fn decode<T: Schema>(record: &Record) -> Result<(T, u32)> {
    let (name, current) = (T::NAME, T::VERSION);
    let refuse = |message: String| Error::new(ErrorKind::Corrupt, message);
    // The parser's words are kept out of the message: they may quote the value.
    let found: Found = serde_json::from_slice(&record.value).map_err(|_| {
        refuse(format!("not a typed record; expected JSON with `schema` = `{name}`, `version` and `value`"))
    })?;
    if found.schema != name {
        return Err(refuse(format!("a record of `{}`; expected one of `{name}`", Shown(&found.schema))));
    }
    let version = found.version;
    let value = match version {
        _ if version > current => {
            return Err(refuse(format!(
                "version {version} of `{name}`, written by a newer program; this one reads up to version {current}"
            )));
        }
        _ if version < current => T::migrate(version, found.value)?,
        _ => found.value,
    };
    let value = serde_json::from_value(value).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        refuse(format!("version {version} of `{name}` does not have the shape of version {current}"))
            .with_context("at", format_args!("{line}:{column}"))
    })?;
    Ok((value, version))
}

/// Typed records on any [`Store`].
#[async_trait]
pub trait TypedExt: Store {
    /// The typed record at `key`, or `None`.
    ///
    /// # Errors
    /// What [`decode_typed`] and [`Store::get`] say.
    async fn get_typed<T: Schema>(&self, key: &Key) -> Result<Option<Typed<T>>> {
        self.get(key).await?.map(decode_typed).transpose()
    }

    /// Puts a typed record.
    ///
    /// # Errors
    /// What [`encode_typed`] and [`Store::commit`] say.
    async fn put_typed<T: Schema>(&self, key: &Key, value: &T, expect: Expect) -> Result<StoreRevision> {
        let value = encode_typed(value)?;
        self.commit(&Transaction::new().expect(key, expect).put(key, value)).await
    }

    /// One page of typed records with the revision that it shows and whether there is more; one that can't be read fails it.
    ///
    /// # Errors
    /// What [`decode_typed`] and [`Store::list`] say.
    async fn list_typed<T: Schema>(
        &self,
        request: &ListRequest,
    ) -> Result<(Vec<Typed<T>>, StoreRevision, bool)> {
        let page = self.list(request).await?;
        let typed = page.records.into_iter().map(decode_typed).collect::<Result<_>>()?;
        Ok((typed, page.revision, page.more))
    }
}

impl<S: Store + ?Sized> TypedExt for S {}

#[cfg(test)]
mod tests {
    use super::super::{ListRequest, MemoryStore, Prefix, StoreExt as _};
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Plan {
        steps: u32,
    }

    impl Schema for Plan {
        const NAME: &'static str = "plan";
        const VERSION: u32 = 3;
        fn migrate(from: u32, mut value: Value) -> Result<Value> {
            if from < 2 {
                return Err(Error::new(ErrorKind::Corrupt, "version 1 is too old"));
            }
            let count = value["count"].take();
            Ok(serde_json::json!({ "steps": count }))
        }
    }

    #[tokio::test]
    async fn older_versions_are_lifted_and_newer_ones_refused() {
        let store = MemoryStore::new();
        let key = Key::new("plan/1").unwrap();
        store.put_typed(&key, &Plan { steps: 4 }, Expect::Absent).await.unwrap();
        let typed = store.get_typed::<Plan>(&key).await.unwrap().unwrap();
        assert_eq!((typed.value, typed.version), (Plan { steps: 4 }, 3));

        let put = |text: &'static str| store.put(&key, text.into(), Expect::Any);
        put(r#"{"schema":"plan","version":2,"value":{"count":9}}"#).await.unwrap();
        let lifted = store.get_typed::<Plan>(&key).await.unwrap().unwrap();
        assert_eq!((lifted.value, lifted.version), (Plan { steps: 9 }, 2));
        for (text, reason) in [
            (
                r#"{"schema":"plan","version":4,"value":{"steps":1}}"#,
                "version 4 of `plan`, written by a newer",
            ),
            (r#"{"schema":"plan","version":1,"value":{"steps":1}}"#, "too old"),
            (r#"{"schema":"other","version":3,"value":{"steps":1}}"#, "a record of `other`"),
            (r#"{"schema":"plan","version":3,"value":{"steps":"x"}}"#, "does not have the shape"),
            (r#"{"schema":"plan","version":3,"value":{},"more":1}"#, "not a typed record"),
            ("secret", "not a typed record"),
        ] {
            put(text).await.unwrap();
            let error = store.get_typed::<Plan>(&key).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(reason), "{error}");
            assert!(error.to_string().contains("plan/1") && !error.to_string().contains("secret"), "{error}");
        }
        let listed = store.list_typed::<Plan>(&ListRequest::new(Prefix::all())).await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

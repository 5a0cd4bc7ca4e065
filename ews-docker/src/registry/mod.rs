//! Registries: where images live.

//! EWS core.

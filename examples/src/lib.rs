//! Reference deployments of EWS: each binary beside this file composes the crates into something that runs.

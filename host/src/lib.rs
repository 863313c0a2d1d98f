//! Runs the DingTalk binding component.

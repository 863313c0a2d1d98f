//! The promises of this project, one file each, kept by the real component in the real host over real
//! sockets. Where DingTalk would be, there is the simulator, which enforces DingTalk's rules.

mod contract;
mod support;

// Package gateway is a site's one network entrance for replication where the
// site is several processes: it passes announcements on to the controller, and
// each volume's stream on to the volume's engine.
//
// It authenticates the peer's site by its certificate and tells the receiver
// its name in the metadata key [replication.PeerKey]; nothing else of what a
// caller sends beside its messages is passed on. Of a stream it decodes a copy
// of the first message, for the volume that it names. All messages go on as the
// bytes that they came as.
//
// # Invariants
//
//   - A message is read from one side only when the one before it was taken by
//     the other: per stream and direction at most two messages are here, beside
//     what the windows of HTTP/2 let arrive. A slow engine slows its sender and
//     nobody else.
//   - Both sides of a stream end together, and the sender gets the status that
//     the engine gave, details included.
//   - It keeps no state: any number of gateways may serve a site, and one that
//     dies costs a reconnect.
//
// # Goroutines
//
// Two for each stream, beside the one of the call. All have ended when Close
// returns.
//
// # What it does not do
//
// It judges neither terms nor messages, and does not know which volumes a peer
// may send: the receivers decide. It finds no engines: [Engines] does.
package gateway

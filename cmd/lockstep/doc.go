// Command lockstep is every role of Lockstep in one binary: the standalone
// site, the holder of device descriptors, the tool that makes certificates, the
// tools for stores that no site has open, and the command line that speaks to a site's
// admin socket.
//
// Invoked as kubectl-lockstep it is a kubectl plugin, shown as "kubectl
// lockstep": the same commands for a site in a cluster, which is reached through
// the API server (package cluster). There rewind and failover make a Recovery and
// follow it (recovery.go), and orphans, check preflight and support-bundle look
// at the cluster itself. Which of the two it is, only route, root.go and the
// constructors of these commands ask.
//
// # Rules of the command line
//
//   - Data goes to standard output, everything else (progress, hints, questions,
//     errors) to standard error.
//   - -o table|wide|json|yaml|name chooses the form of the data. The fields of
//     json and yaml are stable; output.md documents them, and so does
//     `lockstep help output`.
//   - A command that destroys asks on a terminal and demands --yes elsewhere.
//   - Colour and progress appear on a terminal only; NO_COLOR turns colour off.
//     The phases of a recovery are lines, and appear everywhere.
//   - The exit status is 0 when done, 1 when it failed, 2 when it was misused.
//
// Each subcommand has a file of its own and is a method of app, which carries
// the streams, the clock and the environment, so that tests run the whole
// command line in their own process. The command line keeps no state, and
// starts goroutines only for what a terminal needs: a progress line and the
// answer to a question.
package main

// Demo shows on one machine what Lockstep is for: PostgreSQL on two volumes of
// one consistency group, replicated to a second site, a table dropped by
// mistake and brought back in place, and the loss of the first site.
//
// Every figure that it prints was measured in the run that prints it, and every
// claim is checked: it exits with status 1 when something is not as it says. It
// needs root, and takes away everything that it made, also when it fails or is
// interrupted.
package main

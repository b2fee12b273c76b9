package main

import "runtime/debug"

// run is the export of wasi:cli/run, by which a program is run. Its result is
// 0 where all went well; main exits by itself where it did not.
//
//go:wasmexport wasi:cli/run@0.2.12#run
func run() int32 {
	// The garbage collector would read clocks, perhaps while whoever provides
	// an import allocates its result. Then a component may call nobody, and
	// traps (bytecodealliance/wasmtime#14318). This program ends soon, and has
	// room for all that it ever allocates.
	debug.SetGCPercent(-1)
	main()
	return 0
}

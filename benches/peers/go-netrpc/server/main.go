// Command server is a net/rpc server of Add([]int) int, as in the documentation of net/rpc.
package main

import (
	"log"
	"net"
	"net/rpc"
	"os"
)

// Arith is the service; its method is called "Arith.Add".
type Arith int

// Add sums args.
func (t *Arith) Add(args []int, reply *int) error {
	sum := 0
	for _, value := range args {
		sum += value
	}
	*reply = sum
	return nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go-netrpc HOST:PORT")
	}
	if err := rpc.Register(new(Arith)); err != nil {
		log.Fatal("register error: ", err)
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal("listen error: ", err)
	}
	rpc.Accept(l)
}

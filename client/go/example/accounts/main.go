// The example as a program: it opens two accounts, moves money, and prints what a subscription
// makes of it. It calls the server at TREERING_SERVER, or 127.0.0.1:7464.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/treering/treering/client/go/example"
	"github.com/treering/treering/client/go/treering"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	target := os.Getenv("TREERING_SERVER")
	if target == "" {
		target = "127.0.0.1:7464"
	}
	connection, err := treering.Connect(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()

	accounts := example.New(connection)
	anna, bert := uuid.NewString(), uuid.NewString()
	steps := []func() error{
		func() error { return accounts.Open(ctx, anna, "Anna") },
		func() error { return accounts.Open(ctx, bert, "Bert") },
		func() error { return accounts.Deposit(ctx, anna, 10_000) },
		func() error { return accounts.Transfer(ctx, anna, bert, 2_500) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	latest, err := accounts.Latest(ctx, 10, anna, bert)
	if err != nil {
		return err
	}
	for _, event := range latest {
		fmt.Println(event.GetPosition(), event.GetStream(), event.GetVersion(), event.GetType(), string(event.GetData()))
	}

	folder, err := os.MkdirTemp("", "balances")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	ctx, stop := context.WithCancel(ctx)
	err = example.FollowBalances(ctx, connection, filepath.Join(folder, "balances"), func(balances *example.Balances) {
		fmt.Println("Anna has", balances.Cents[anna], "cents, Bert has", balances.Cents[bert])
		stop()
	})
	if ctx.Err() != nil {
		return nil // We have stopped it.
	}
	return err
}

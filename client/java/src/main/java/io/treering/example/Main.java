package io.treering.example;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.treering.Treering;
import io.treering.v1.RecordedEvent;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.UUID;

/**
 * The example as a program: it opens two accounts, moves money, and prints what a subscription
 * makes of it. It calls the server at TREERING_SERVER, or 127.0.0.1:7464.
 */
public final class Main {

  private Main() {}

  public static void main(String[] arguments) throws IOException, InterruptedException {
    String target = System.getenv().getOrDefault("TREERING_SERVER", "127.0.0.1:7464");
    ManagedChannel channel =
        Treering.connect(Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()));
    try {
      moveMoney(channel);
    } finally {
      channel.shutdownNow(); // Ends all calls.
    }
  }

  private static void moveMoney(ManagedChannel channel) throws IOException, InterruptedException {
    Accounts accounts = new Accounts(channel);
    String anna = UUID.randomUUID().toString();
    String bert = UUID.randomUUID().toString();
    accounts.open(anna, "Anna");
    accounts.open(bert, "Bert");
    accounts.deposit(anna, 10_000);
    accounts.transfer(anna, bert, 2_500);
    for (RecordedEvent event : accounts.latest(10, anna, bert)) {
      System.out.printf(
          "%d %s %d %s %s%n",
          event.getPosition(),
          event.getStream(),
          event.getVersion(),
          event.getType(),
          event.getData().toStringUtf8());
    }

    Path folder = Files.createTempDirectory("balances");
    Path file = folder.resolve("balances.json");
    try {
      Balances.follow(
          channel,
          file,
          balances -> {
            System.out.printf(
                "Anna has %d cents, Bert has %d%n", balances.cents(anna), balances.cents(bert));
            return false;
          });
    } finally {
      Files.deleteIfExists(file);
      Files.delete(folder);
    }
  }
}

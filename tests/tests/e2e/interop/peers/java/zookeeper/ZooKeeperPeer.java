package zookeeper;

import java.net.InetSocketAddress;
import java.nio.file.Path;
import org.apache.zookeeper.server.NIOServerCnxnFactory;
import org.apache.zookeeper.server.ServerCnxn;
import org.apache.zookeeper.server.ZooKeeperServer;
import peer.Peer;

/** ZooKeeper's server, which can be stopped and started again with what it knew. */
public final class ZooKeeperPeer {
    private static ZooKeeperServer server;
    private static NIOServerCnxnFactory factory;

    private ZooKeeperPeer() {}

    /** Sessions last as long as they ask to, from half a second on. */
    private static int start(int port) throws Exception {
        server = new ZooKeeperServer(Path.of("data").toFile(), Path.of("data").toFile(), 250);
        server.setMaxSessionTimeout(60_000);
        factory = new NIOServerCnxnFactory();
        factory.configure(new InetSocketAddress("127.0.0.1", port), 1000);
        factory.startup(server);
        return factory.getLocalPort();
    }

    private static void stop() {
        factory.shutdown();
        server.shutdown();
    }

    /** The address that clients are to know is part of a command's arguments. */
    public static void main(String[] words) throws Exception {
        new Peer(error -> null)
            .on("start", arguments -> start(arguments.number("port", 0)))
            .on("stop", arguments -> {
                stop();
                return "stopped";
            })
            // As if the network were lost: sessions stay.
            .on("drop", arguments -> {
                factory.closeAll(ServerCnxn.DisconnectReason.CLOSE_ALL_CONNECTIONS_FORCED);
                return "dropped";
            })
            // As if it were lost for long: sessions end.
            .on("expire", arguments -> {
                int count = 0;
                for (long session : server.getZKDatabase().getSessions()) {
                    server.closeSession(session);
                    count++;
                }
                return count;
            })
            .run();
    }
}

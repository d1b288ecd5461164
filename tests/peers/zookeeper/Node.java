// Writes, reads and removes a node: Node SERVER put|get|rm PATH, content on standard input and output.
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;

class Node {
    public static void main(String[] args) throws Exception {
        var connected = new CountDownLatch(1);
        var zk = new ZooKeeper(args[0], 10_000, event -> {
            if (event.getState() == KeeperState.SyncConnected) connected.countDown();
        });
        if (!connected.await(30, TimeUnit.SECONDS)) throw new IllegalStateException("no connection to " + args[0]);
        String path = args[2];
        switch (args[1]) {
            case "put" -> {
                byte[] content = System.in.readAllBytes();
                for (int end = path.indexOf('/', 1); end > 0; end = path.indexOf('/', end + 1)) create(zk, path.substring(0, end), null);
                if (!create(zk, path, content)) zk.setData(path, content, -1);
            }
            case "get" -> System.out.write(zk.getData(path, false, null));
            case "rm" -> zk.delete(path, -1);
            default -> throw new IllegalArgumentException(args[1]);
        }
        System.out.flush();
        zk.close();
    }

    static boolean create(ZooKeeper zk, String path, byte[] content) throws Exception {
        try {
            zk.create(path, content, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            return true;
        } catch (KeeperException.NodeExistsException there) {
            return false;
        }
    }
}

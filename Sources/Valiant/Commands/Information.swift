/// The text of INFO: `# Section` lines with `name:value` lines below.
struct Information {
  let server: Server
  let asker: Worker
  /// Whether the locks of all shards are held.
  let isLocked: Bool

  private typealias Field = (name: String, value: String)

  private struct Section: Sendable {
    let name: String
    /// Part of INFO without arguments.
    let isDefault: Bool
    let fields: @Sendable (Information) -> [Field]
  }

  private static let sections: [Section] = [
    Section(name: "Server", isDefault: true) { $0.serverFields },
    Section(name: "Clients", isDefault: true) { $0.clientFields },
    Section(name: "Memory", isDefault: true) { $0.memoryFields },
    Section(name: "Engine", isDefault: true) { $0.engineFields },
    Section(name: "Persistence", isDefault: true) { $0.persistenceFields },
    Section(name: "Stats", isDefault: true) { $0.statisticsFields },
    Section(name: "Replication", isDefault: true) { $0.replicationFields },
    Section(name: "CPU", isDefault: true) { $0.processorFields },
    Section(name: "Threads", isDefault: true) { $0.threadFields },
    Section(name: "Commandstats", isDefault: false) { $0.commandFields },
    Section(name: "Cluster", isDefault: true) { _ in [("cluster_enabled", "0")] },
    Section(name: "Keyspace", isDefault: true) { $0.keyspaceFields },
  ]

  /// - Parameter sections: Names in lower case; none for the default ones.
  func text(sections asked: [String]) -> String {
    let wantsAll = asked.contains("all") || asked.contains("everything")
    let wantsDefault = asked.isEmpty || asked.contains("default")
    let chosen = Self.sections.filter { section in
      wantsAll || (wantsDefault && section.isDefault) || asked.contains(section.name.lowercased())
    }
    return chosen.map { section in
      let lines = section.fields(self).map { "\($0.name):\($0.value)\r\n" }
      return "# \(section.name)\r\n" + lines.joined()
    }.joined(separator: "\r\n")
  }

  private func sum(_ counter: (Statistics) -> Int) -> Int {
    Statistics.sum(server.statistics, counter)
  }

  private var serverFields: [Field] {
    let uptime = server.uptimeMilliseconds / 1000
    return [
      ("redis_version", Version.redis),
      ("valiant_version", Version.valiant),
      ("redis_mode", "standalone"),
      ("os", ProcessUsage.systemName),
      ("arch_bits", "64"),
      ("multiplexing_api", "epoll"),
      ("process_id", "\(ProcessUsage.identifier)"),
      ("run_id", server.runIdentifier),
      ("tcp_port", "\(server.port ?? 0)"),
      ("server_time_usec", "\(Clock.wallMicroseconds)"),
      ("uptime_in_seconds", "\(uptime)"),
      ("uptime_in_days", "\(uptime / 86400)"),
      ("hz", "10"),
      ("configured_hz", "10"),
      ("executable", ProcessUsage.executable),
      ("config_file", server.configurationFile),
      ("io_threads_active", "0"),
    ]
  }

  private var clientFields: [Field] {
    var input = 0
    var output = 0
    let pause = server.pause
    var trackers = 0
    server.clients.forEachClient {
      if $0.client.trackingModes.contains(.on) { trackers += 1 }
      input = max(input, $0.client.inputBytes)
      output = max(output, $0.client.outputBytes)
    }
    return [
      ("connected_clients", "\(server.clients.count)"),
      ("cluster_connections", "0"),
      ("maxclients", "\(server.settings.maxClients)"),
      ("client_recent_max_input_buffer", "\(input)"),
      ("client_recent_max_output_buffer", "\(output)"),
      ("blocked_clients", "\(server.saving.waitingCount + server.appendOnly.waitingCount)"),
      ("tracking_clients", "\(trackers)"),
      ("clients_in_timeout_table", "0"),
      ("paused_reason", pause == nil ? "none" : "client_pause"),
      ("paused_actions", pause.map { $0.isForWrites ? "write" : "all" } ?? "none"),
      (
        "paused_timeout_milliseconds",
        "\(pause.map { max(0, $0.end - Clock.steadyMilliseconds) } ?? 0)"
      ),
    ]
  }

  private var memoryFields: [Field] {
    let usage = MemoryUsage(server, isLocked: isLocked)
    let resident = ProcessUsage.residentBytes
    let limit = server.settings.maxMemory.bytes
    let scripts = server.scripts.census
    return [
      ("used_memory", "\(usage.total)"),
      ("used_memory_human", Self.humanBytes(usage.total)),
      ("used_memory_rss", "\(resident)"),
      ("used_memory_rss_human", Self.humanBytes(resident)),
      ("used_memory_overhead", "\(usage.total - usage.dataset)"),
      ("used_memory_startup", "\(usage.startup)"),
      ("used_memory_dataset", "\(usage.dataset)"),
      ("used_memory_dataset_perc", "\(decimalText(usage.datasetShare, places: 2))%"),
      ("total_system_memory", "\(ProcessUsage.systemBytes)"),
      ("total_system_memory_human", Self.humanBytes(ProcessUsage.systemBytes)),
      ("maxmemory", "\(limit)"),
      ("maxmemory_human", Self.humanBytes(limit)),
      ("number_of_cached_scripts", "\(scripts.count)"),
      ("used_memory_scripts_eval", "\(scripts.bytes)"),
      ("used_memory_vm_eval", "\(server.scripts.memoryBytes)"),
      ("maxmemory_policy", server.settings.evictionPolicy.rawValue),
      ("mem_fragmentation_ratio", decimalText(resident * 100 / max(1, usage.total), places: 2)),
      ("mem_clients_normal", "\(usage.clients)"),
      ("mem_table", "\(usage.store.tableBytes)"),
      ("mem_entries", "\(usage.store.entries.live)"),
      ("mem_entries_dead", "\(usage.store.entries.dead)"),
      ("mem_entries_spare", "\(usage.store.entries.spare)"),
      ("mem_pool_spare", "\(usage.poolSpare)"),
      ("mem_allocator", "valiant"),
    ]
  }

  /// How long the steps of the store's upkeep took; Redis has no such section.
  private var engineFields: [Field] {
    StepTimes.Kind.allCases.map { kind in
      let summary = server.store.memory.steps.summary(kind)
      func microseconds(_ nanoseconds: Int) -> String { decimalText(nanoseconds / 10, places: 2) }
      return (
        "\(kind)",
        "count=\(summary.count),p99_usec=\(microseconds(summary.p99Nanoseconds)),"
          + "p999_usec=\(microseconds(summary.p999Nanoseconds)),"
          + "max_usec=\(microseconds(summary.maxNanoseconds)),"
          + "total_usec=\(microseconds(summary.totalNanoseconds)),slow=\(summary.slowCount)"
      )
    }
  }

  /// `1.50M`, as Redis writes it.
  static func humanBytes(_ bytes: Int) -> String {
    let units: [(Int, String)] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")]
    guard let (size, name) = units.first(where: { bytes >= $0.0 }) else { return "\(bytes)B" }
    return "\(decimalText(bytes * 100 / size, places: 2))\(name)"
  }

  private var persistenceFields: [Field] {
    let saving = server.saving
    let report = saving.report
    let current = saving.current
    let progress = server.loadProgress
    let changes = server.store.census(isLocked: isLocked).changes
    var fields: [Field] = [
      ("loading", progress == nil ? "0" : "1"),
      ("async_loading", "0"),
      ("current_cow_peak", "\(current?.waitingBytesMax ?? 0)"),
      ("current_cow_size", "\(current?.waitingBytes ?? 0)"),
      ("current_fork_perc", "0.00"),
      ("current_save_keys_processed", "\(current?.savedKeyCount ?? 0)"),
      ("current_save_keys_total", "\(current?.keyCount ?? 0)"),
      ("rdb_changes_since_last_save", "\(saving.unsaved(of: changes))"),
      ("rdb_bgsave_in_progress", current == nil ? "0" : "1"),
      ("rdb_last_save_time", "\(report.lastSave)"),
      ("rdb_last_bgsave_status", report.isLastGood ? "ok" : "err"),
      ("rdb_last_bgsave_time_sec", "\(report.lastSeconds)"),
      ("rdb_current_bgsave_time_sec", "\(saving.currentSeconds)"),
      ("rdb_saves", "\(report.count)"),
      ("rdb_last_cow_size", "\(report.lastWaitingBytes)"),
      ("rdb_last_load_keys_expired", "\(report.expiredKeys)"),
      ("rdb_last_load_keys_loaded", "\(report.loadedKeys)"),
    ]
    fields += appendLogFields
    if let progress {
      let elapsed = max(1, Clock.wallMilliseconds / 1000 - progress.began)
      let left = (progress.total - progress.read) / max(1, progress.read / elapsed)
      fields += [
        ("loading_start_time", "\(progress.began)"),
        ("loading_total_bytes", "\(progress.total)"),
        ("loading_loaded_bytes", "\(progress.read)"),
        (
          "loading_loaded_perc",
          decimalText(progress.read * 10_000 / max(1, progress.total), places: 2)
        ),
        ("loading_eta_seconds", "\(left)"),
      ]
    }
    return fields
  }

  private var appendLogFields: [Field] {
    let report = server.appendOnly.report
    let log = server.appendOnly.logReport
    let current =
      report.rewriteBegan.map { (Clock.steadyMilliseconds - $0) / 1000 } ?? -1
    var fields: [Field] = [
      ("aof_enabled", log == nil ? "0" : "1"),
      ("aof_rewrite_in_progress", report.rewriteBegan == nil ? "0" : "1"),
      ("aof_rewrite_scheduled", "0"),
      ("aof_last_rewrite_time_sec", "\(report.lastRewriteSeconds)"),
      ("aof_current_rewrite_time_sec", "\(current)"),
      ("aof_last_bgrewrite_status", report.isLastRewriteGood ? "ok" : "err"),
      ("aof_rewrites", "\(report.rewriteCount)"),
      ("aof_rewrites_consecutive_failures", "\(report.failuresInRow)"),
      ("aof_last_write_status", log?.failure == nil ? "ok" : "err"),
      ("aof_last_cow_size", "\(report.lastWaitingBytes)"),
    ]
    guard let log else { return fields }
    fields += [
      ("aof_current_size", "\(log.bytes)"),
      ("aof_base_size", "\(log.bytesAtBase)"),
      ("aof_pending_rewrite", "0"),
      ("aof_buffer_length", "\(server.appendOnly.bufferedBytes)"),
      ("aof_pending_bio_fsync", log.isSyncDue ? "1" : "0"),
      ("aof_delayed_fsync", "\(report.delayedCount)"),
    ]
    return fields
  }

  private var statisticsFields: [Field] {
    let expired = server.store.census(isLocked: isLocked).expired
    let observers = server.store.memory.observers
    return [
      ("total_connections_received", "\(sum { $0.connectionsReceived.value })"),
      ("total_commands_processed", "\(sum { $0.commandsProcessed.value })"),
      ("instantaneous_ops_per_sec", "\(server.operationsPerSecond)"),
      ("total_net_input_bytes", "\(sum { $0.inputBytes.value })"),
      ("total_net_output_bytes", "\(sum { $0.outputBytes.value })"),
      ("rejected_connections", "\(sum { $0.connectionsRejected.value })"),
      ("expired_keys", "\(expired)"),
      ("evicted_keys", "\(server.store.memory.eviction.evictedCount)"),
      ("evicted_clients", "\(sum { $0.evictedClients.value })"),
      ("keyspace_hits", "\(sum { $0.keyspaceHits.value })"),
      ("keyspace_misses", "\(sum { $0.keyspaceMisses.value })"),
      ("pubsub_channels", "\(server.pubSub.count(.channel))"),
      ("pubsub_patterns", "\(server.pubSub.count(.pattern))"),
      ("pubsubshard_channels", "\(server.pubSub.count(.shardChannel))"),
      ("tracking_total_keys", "\(observers.readKeyCount)"),
      ("tracking_total_items", "\(observers.readerCount)"),
      ("tracking_total_prefixes", "\(observers.prefixCount)"),
      ("total_error_replies", "\(sum { $0.errorReplies.value })"),
      (
        "client_query_buffer_limit_disconnections",
        "\(sum { $0.queryBufferLimitDisconnections.value })"
      ),
      (
        "client_output_buffer_limit_disconnections",
        "\(sum { $0.outputLimitDisconnections.value })"
      ),
    ]
  }

  private var replicationFields: [Field] {
    [("role", "master"), ("connected_slaves", "0")]
  }

  private var processorFields: [Field] {
    let usage = ProcessUsage.processorMicroseconds
    return [
      ("used_cpu_sys", decimalText(usage.system, places: 6)),
      ("used_cpu_user", decimalText(usage.user, places: 6)),
    ]
  }

  /// What each loop carries; Redis has no such section.
  private var threadFields: [Field] {
    let workers = server.workers
    return [("threads", "\(workers.count)")]
      + zip(workers, server.connectionLoads).map { worker, connections in
        (
          "thread_\(worker.index)",
          "connections=\(connections),commands=\(worker.statistics.commandsProcessed.value)"
        )
      }
  }

  private var commandFields: [Field] {
    let all = server.statistics
    return (0..<CommandTable.shared.count).compactMap { index in
      func total(_ counter: (borrowing Statistics.CommandCounters) -> Int) -> Int {
        all.reduce(0) { $0 + $1.withCommand(index, counter) }
      }
      let calls = total { $0.calls.value }
      let rejected = total { $0.rejected.value }
      let failed = total { $0.failed.value }
      if calls + rejected == 0 { return nil }
      let microseconds = total { $0.nanoseconds.value } / 1000
      let perCall = calls == 0 ? 0 : microseconds * 100 / calls
      return (
        "cmdstat_\(CommandTable.shared[index].name)",
        "calls=\(calls),usec=\(microseconds),usec_per_call=\(decimalText(perCall, places: 2)),rejected_calls=\(rejected),failed_calls=\(failed)"
      )
    }
  }

  private var keyspaceFields: [Field] {
    (0..<Store.databaseCount).compactMap { database in
      let census = server.store.census(
        databases: database...database, isLocked: isLocked)
      guard census.keys > 0 else { return nil }
      return ("db\(database)", "keys=\(census.keys),expires=\(census.expiring),avg_ttl=0")
    }
  }
}

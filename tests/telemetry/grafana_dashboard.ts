// The part of Grafana's own schema of dashboards that dpa writes. Any other field is refused.
//
// Made into grafana_dashboard.schema.json, in a scratch folder with this file in it, by
//   npm install @grafana/schema@13.2.3 typescript@5.9 ts-json-schema-generator@2.4.0
//   npx ts-json-schema-generator --path grafana_dashboard.ts --type Dashboard \
//     --no-type-check --expose none --jsDoc none
import type {
  Dashboard as AnyDashboard, Panel as AnyPanel, RowPanel, FieldConfig, FieldConfigSource, DataSourceRef,
} from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type { Options as LinesOptions } from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type { Options as StatOptions } from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type { GraphFieldConfig } from '@grafana/schema';
// Grafana keeps this one in its plugin for Prometheus: grafana-foundation-sdk, prometheus.Dataquery
interface PrometheusQuery {
  datasource: DataSourceRef; expr: string; refId: string; legendFormat?: string; instant?: boolean;
  range?: boolean; exemplar?: boolean; editorMode?: 'code' | 'builder'; format?: 'time_series' | 'table' | 'heatmap';
  interval?: string; hide?: boolean; queryType?: string; intervalFactor?: number;
}
type Shown = Omit<AnyPanel, 'type' | 'options' | 'targets' | 'fieldConfig'>;
type Field = Omit<FieldConfig, 'custom'>;
type Source = Omit<FieldConfigSource, 'defaults'>;
interface Lines extends Shown { type: 'timeseries'; options: LinesOptions; targets: PrometheusQuery[];
  fieldConfig: LinesSource }
interface LinesField extends Field { custom: GraphFieldConfig }
interface LinesSource extends Source { defaults: LinesField }
interface Stat extends Shown { type: 'stat'; options: StatOptions; targets: PrometheusQuery[]; fieldConfig: StatSource }
interface StatSource extends Source { defaults: Field }
export interface Dashboard extends Omit<AnyDashboard, 'panels'> { panels: (Lines | Stat | RowPanel)[] }
